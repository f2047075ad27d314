/* The compiled layer with a recvmmsg(2) that a test plans (planned_native.py).

   It calls sys.planned_recvmmsg with the descriptor and the number of messages, which returns an errno, or a list with the
   payload, source, control messages and flags of each message. */

#define recvmmsg planned_recvmmsg
#include "native.c"

#include <errno.h>

/* Copy bytes to where a message has space for them, and return their number. */
static size_t
copy(PyObject *from, void *to, size_t space)
{
    size_t size = (size_t)PyBytes_Size(from);
    size = size < space ? size : space;
    if (size) {
        memcpy(to, PyBytes_AsString(from), size);
    }
    return size;
}

int
planned_recvmmsg(int descriptor, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
    (void)flags;
    (void)timeout;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *planned = PyObject_CallFunction(PySys_GetObject("planned_recvmmsg"), "iI", descriptor, count);
    int received = -1, number = EFAULT;
    if (planned == NULL) {
        PyErr_WriteUnraisable(NULL);
    }
    else if (PyLong_Check(planned)) {
        number = (int)PyLong_AsLong(planned);
    }
    else {
        received = (int)PyList_Size(planned);
        for (int index = 0; index < received; index++) {
            struct msghdr *header = &messages[index].msg_hdr;
            PyObject *message = PyList_GetItem(planned, index);
            PyObject *data = PyTuple_GetItem(message, 0);
            messages[index].msg_len = (unsigned)copy(data, header->msg_iov->iov_base, header->msg_iov->iov_len);
            header->msg_namelen = (socklen_t)copy(PyTuple_GetItem(message, 1), header->msg_name, header->msg_namelen);
            header->msg_controllen = copy(PyTuple_GetItem(message, 2), header->msg_control, header->msg_controllen);
            header->msg_flags = (int)PyLong_AsLong(PyTuple_GetItem(message, 3));
        }
    }
    Py_XDECREF(planned);
    PyGILState_Release(state);
    errno = number;
    return received;
}
