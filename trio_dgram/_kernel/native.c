/* The compiled layer: receiving and sending on one internet socket of the operating system.

   Rule 1: what is rare is left to Python: unusual ancillary data and sources, and every argument that is not of the exact
           type that is handled here.
   Rule 2: the socket is asked for its descriptor on every call, because it may have been closed and the number reused.
   Rule 3: no Python code runs between taking datagrams from the kernel and storing them, except where rule 1 asks for it.

   Functions return NULL or a negative number with an exception set if they fail. A reference that is returned belongs to
   the caller; arguments are borrowed. Both are said where it is otherwise. */

/* The stable ABI of Python 3.11: one binary runs on that version and on every later one, whichever of them has the headers
   with which it is built. So no format has a "#", which 3.13 compiles otherwise, and Py_RETURN_NONE is not used: since 3.12
   it takes no reference, which 3.11 needs. */
#define Py_LIMITED_API 0x030b0000
#define _GNU_SOURCE
#include <Python.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* The same bounds as in recvmmsg.py. */
#define LARGEST_CALL 64
#define LARGEST_PAYLOAD 65536
#define ANCILLARY_SIZE 512

/* How many sources are cached: a power of two. It is bounded, since anyone can forge any number of sources. */
#define CACHED_SOURCES 4096

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

typedef union {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
} SocketAddress;

/* The hot calls of one socket. */
typedef struct {
    PyObject_HEAD
    PyObject *socket;          /* the standard library's socket */
    PyObject *sendto;          /* its methods, for arguments that are not handled here */
    PyObject *send;
    PyObject *source_type;     /* the class of its sources without a zone */
    int family;                /* AF_INET or AF_INET6 */
    Py_ssize_t per_message;    /* how many datagrams a message of the last batch held */
} KernelCalls;

/* The memory that one recvmmsg(2) writes to. The kernel touches only the pages that it fills. */
typedef struct Buffers {
    struct Buffers *next;
    struct mmsghdr messages[LARGEST_CALL];
    struct iovec vectors[LARGEST_CALL];
    SocketAddress sources[LARGEST_CALL];
    _Alignas(struct cmsghdr) char control[LARGEST_CALL][ANCILLARY_SIZE];
    char payloads[LARGEST_CALL][LARGEST_PAYLOAD];
} Buffers;

/* The buffers that no call uses. Calls of several threads overlap while the GIL is released, so each takes its own. */
static Buffers *idle_buffers;

/* The cached sources, each at the place that its bytes hash to: a new one replaces the one that was there. The table owns
   a reference to each address. */
static struct {
    SocketAddress source;
    PyObject *address;
} cached_sources[CACHED_SOURCES];

/* References that live as long as the process. */
static PyObject *datagram_type, *cached_local_info;
static newfunc new_tuple;
static PyObject *str_own_port, *str_coalescing, *str_with_info, *str_with_local_address, *str_counts, *str_extend,
    *str_permitted, *str_coalesced_receives, *str_coalesced_datagrams;

/* Return an instance of a tuple subclass with the items of ``items``, as tuple.__new__ does; it steals ``items``, which
   may be NULL after an error. */
static PyObject *
tuple_of(PyObject *type, PyObject *items)
{
    PyObject *arguments = items == NULL ? NULL : PyTuple_Pack(1, items);
    Py_XDECREF(items);
    if (arguments == NULL) {
        return NULL;
    }
    PyObject *made = new_tuple((PyTypeObject *)type, arguments, NULL);
    Py_DECREF(arguments);
    return made;
}

/* Add ``number`` to the integer attribute ``name``. */
static int
add_to(PyObject *object, PyObject *name, Py_ssize_t number)
{
    PyObject *before = PyObject_GetAttr(object, name);
    PyObject *added = before == NULL ? NULL : PyLong_FromSsize_t(number);
    PyObject *sum = added == NULL ? NULL : PyNumber_Add(before, added);
    int failed = sum == NULL ? -1 : PyObject_SetAttr(object, name, sum);
    Py_XDECREF(before);
    Py_XDECREF(added);
    Py_XDECREF(sum);
    return failed;
}

/* Return the integer attribute ``name``. */
static long
integer_of(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    long number = value == NULL ? -1 : PyLong_AsLong(value);
    Py_XDECREF(value);
    return number;
}

/* Return the descriptor of the socket, -1 for a closed one, with which the kernel refuses every call. */
static int
descriptor_of(KernelCalls *self)
{
    int descriptor = PyObject_AsFileDescriptor(self->socket);
    if (descriptor < 0) {
        PyErr_Clear();
    }
    return descriptor;
}

/* Return the size of an address of the socket's family. */
static socklen_t
address_size(KernelCalls *self)
{
    return self->family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* Sources */

/* Return whether a source may be answered and has no zone: anything else is for Python (see Family.source). Nothing
   listens on port 0, and the kernel would deliver the answer to the unspecified address to this machine. */
static int
is_usual(const SocketAddress *source)
{
    if (source->any.sa_family == AF_INET) {
        return source->ipv4.sin_port && source->ipv4.sin_addr.s_addr;
    }
    const struct in6_addr *host = &source->ipv6.sin6_addr;
    int is_unspecified = IN6_IS_ADDR_UNSPECIFIED(host) || (IN6_IS_ADDR_V4MAPPED(host) && !host->s6_addr32[3]);
    return source->ipv6.sin6_port && !is_unspecified && !source->ipv6.sin6_scope_id;
}

/* Return where in the table a source has its place. */
static size_t
place_of(const SocketAddress *source)
{
    uint32_t words[sizeof *source / sizeof(uint32_t)], hash = 0;
    memcpy(words, source, sizeof words);
    for (size_t index = 0; index < sizeof words / sizeof *words; index++) {
        hash = (hash ^ words[index]) * 0x9e3779b1u;
        hash ^= hash >> 15;
    }
    return hash % CACHED_SOURCES;
}

/* Return a usual source as a value from the cache, which gets it if it was not there; a new reference. */
static PyObject *
cached_source(KernelCalls *self, const SocketAddress *source)
{
    size_t place = place_of(source);
    PyObject *address = cached_sources[place].address;
    if (address != NULL && memcmp(&cached_sources[place].source, source, sizeof *source) == 0) {
        return Py_NewRef(address);
    }
    char host[INET6_ADDRSTRLEN];
    const void *octets = self->family == AF_INET ? (void *)&source->ipv4.sin_addr : (void *)&source->ipv6.sin6_addr;
    inet_ntop(self->family, octets, host, sizeof host);
    /* The port is at the same offset in both families. */
    address = tuple_of(self->source_type, Py_BuildValue("(si)", host, ntohs(source->ipv4.sin_port)));
    if (address != NULL) {
        PyObject *replaced = cached_sources[place].address;
        cached_sources[place].source = *source;
        cached_sources[place].address = Py_NewRef(address);
        Py_XDECREF(replaced);
    }
    return address;
}

/* Return the source of a message as a value, None if it must not be answered; a new reference. */
static PyObject *
source_of(KernelCalls *self, PyObject *owner, const struct msghdr *message, long own_port)
{
    SocketAddress source = {0};
    if (message->msg_namelen == address_size(self)) {
        memcpy(&source, message->msg_name, message->msg_namelen);
    }
    if (source.any.sa_family != self->family || !is_usual(&source)) {
        return PyObject_CallMethod(owner, "_unusual_source", "N",
                                   PyBytes_FromStringAndSize((char *)&source, address_size(self)));
    }
    PyObject *address = cached_source(self, &source);
    if (address != NULL && own_port && ntohs(source.ipv4.sin_port) == own_port) {
        PyObject *permitted = PyObject_CallMethodObjArgs(owner, str_permitted, address, NULL);
        Py_DECREF(address);
        return permitted;
    }
    return address;
}

/* Receiving */

/* Return buffers that no other call uses. */
static Buffers *
take_buffers(void)
{
    Buffers *buffers = idle_buffers;
    if (buffers != NULL) {
        idle_buffers = buffers->next;
        return buffers;
    }
    /* Of this size calloc(3) maps fresh pages, which cost nothing before they are used. */
    buffers = calloc(1, sizeof *buffers);
    if (buffers == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (int index = 0; index < LARGEST_CALL; index++) {
        buffers->vectors[index] = (struct iovec){buffers->payloads[index], LARGEST_PAYLOAD};
    }
    return buffers;
}

/* Make buffers available to other calls. */
static void
return_buffers(Buffers *buffers)
{
    buffers->next = idle_buffers;
    idle_buffers = buffers;
}

/* Receive at most ``most`` messages without waiting, and return their number. */
static int
receive_messages(KernelCalls *self, Buffers *buffers, int most, int with_control)
{
    int descriptor = descriptor_of(self), count;
    /* The kernel overwrites the sizes. */
    for (int index = 0; index < most; index++) {
        buffers->messages[index].msg_hdr = (struct msghdr){
            .msg_name = &buffers->sources[index],
            .msg_namelen = address_size(self),
            .msg_iov = &buffers->vectors[index],
            .msg_iovlen = 1,
            .msg_control = with_control ? buffers->control[index] : NULL,
            .msg_controllen = with_control ? ANCILLARY_SIZE : 0,
        };
    }
    Py_BEGIN_ALLOW_THREADS
    count = recvmmsg(descriptor, buffers->messages, most, MSG_DONTWAIT, NULL);
    Py_END_ALLOW_THREADS
    if (count < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return count;
}

/* Append a datagram to a list; it steals ``data``, which may be NULL after an error. */
static int
append_datagram(PyObject *into, PyObject *data, PyObject *address, PyObject *info)
{
    PyObject *items = data == NULL ? NULL : PyTuple_Pack(3, data, address, info);
    Py_XDECREF(data);
    PyObject *datagram = tuple_of(datagram_type, items);
    int failed = datagram == NULL ? -1 : PyList_Append(into, datagram);
    Py_XDECREF(datagram);
    return failed;
}

/* Return the segment size if that is the only control message of a message, otherwise 0 (udp(7)). */
static int
segment_size(const struct msghdr *message)
{
    const struct cmsghdr *header = message->msg_control;
    int size = 0;
    if (message->msg_controllen == CMSG_SPACE(sizeof size) && header->cmsg_len == CMSG_LEN(sizeof size)
        && header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO) {
        memcpy(&size, CMSG_DATA(header), sizeof size);
    }
    return size > 0 ? size : 0;
}

/* Append the datagrams that the kernel coalesced in one payload, and count them. An empty one counts as one. */
static int
append_segments(PyObject *into, const char *payload, Py_ssize_t size, int segment, PyObject *address, PyObject *counts)
{
    Py_ssize_t count = 0, start = 0;
    do {
        Py_ssize_t length = size - start < segment ? size - start : segment;
        if (append_datagram(into, PyBytes_FromStringAndSize(payload + start, length), address, Py_None) < 0) {
            return -1;
        }
        start += segment;
        count++;
    } while (start < size);
    return add_to(counts, str_coalesced_receives, 1) < 0 ? -1 : add_to(counts, str_coalesced_datagrams, count);
}

/* What one call of receive() wants to know of the Python object that it works for. */
typedef struct {
    PyObject *owner;     /* borrowed */
    PyObject *counts;    /* owned */
    long own_port, coalescing, with_info, with_local_address;
} Request;

/* Append what one message holds. */
static int
append_message(KernelCalls *self, Request *request, PyObject *into, const struct mmsghdr *received)
{
    const struct msghdr *message = &received->msg_hdr;
    const char *payload = message->msg_iov->iov_base;
    Py_ssize_t size = received->msg_len;
    PyObject *address = source_of(self, request->owner, message, request->own_port);
    if (address == NULL) {
        return -1;
    }
    PyObject *info = NULL, *done = NULL;
    int failed = -1, segment;
    int is_plain = address != Py_None && !message->msg_flags && !request->with_info;
    if (is_plain && request->with_local_address) {
        PyObject *key = PyBytes_FromStringAndSize(message->msg_control, message->msg_controllen);
        info = key == NULL ? NULL : PyObject_CallFunctionObjArgs(cached_local_info, key, NULL);
        Py_XDECREF(key);
        if (info == NULL) {
            goto end;
        }
    }
    if (is_plain && (request->with_local_address ? info != Py_None : !message->msg_controllen)) {
        failed = append_datagram(into, PyBytes_FromStringAndSize(payload, size), address,
                                 info == NULL ? Py_None : info);
    }
    else if (is_plain && !request->with_local_address && request->coalescing && (segment = segment_size(message))) {
        failed = append_segments(into, payload, size, segment, address, request->counts);
    }
    else {
        done = PyObject_CallMethod(request->owner, "_unpack_message", "ONNiO", into,
                                   PyBytes_FromStringAndSize(payload, size),
                                   PyBytes_FromStringAndSize(message->msg_control, message->msg_controllen),
                                   message->msg_flags, address);
        failed = done == NULL ? -1 : 0;
    }
end:
    Py_XDECREF(done);
    Py_XDECREF(info);
    Py_DECREF(address);
    return failed;
}

/* Append about ``limit`` datagrams to the list ``fresh``; fail with the kernel's error where no more can be had. */
static int
receive_into(KernelCalls *self, Request *request, PyObject *fresh, Py_ssize_t limit)
{
    int with_control = request->coalescing || request->with_info || request->with_local_address;
    Buffers *buffers = take_buffers();
    int failed = buffers == NULL ? -1 : 0;
    while (!failed && limit > 0) {
        Py_ssize_t before = PyList_Size(fresh), most = limit / self->per_message;
        most = most < 1 ? 1 : most > LARGEST_CALL ? LARGEST_CALL : most;
        int count = receive_messages(self, buffers, (int)most, with_control);
        failed = count < 0 ? -1 : 0;
        for (int index = 0; !failed && index < count; index++) {
            failed = append_message(self, request, fresh, &buffers->messages[index]);
        }
        if (failed || count < most) {
            break;
        }
        Py_ssize_t appended = PyList_Size(fresh) - before;
        self->per_message = appended > count ? appended / count : 1;
        limit -= appended > count ? appended : count;
    }
    if (buffers != NULL) {
        return_buffers(buffers);
    }
    return failed;
}

PyDoc_STRVAR(receive_doc, "receive(owner, into, limit, /)\n--\n\n"
"Receive as CompiledCalls.receive does, for the CompiledCalls ``owner``, which counts.");

static PyObject *
calls_receive(KernelCalls *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3) {
        return PyErr_Format(PyExc_TypeError, "receive takes 3 arguments, not %zd", count);
    }
    PyObject *owner = arguments[0], *into = arguments[1], *extended = NULL;
    Request request = {.owner = owner};
    Py_ssize_t limit = PyLong_AsSsize_t(arguments[2]);
    if (PyErr_Occurred() || (request.own_port = integer_of(owner, str_own_port)) < 0
        || (request.coalescing = integer_of(owner, str_coalescing)) < 0
        || (request.with_info = integer_of(owner, str_with_info)) < 0
        || (request.with_local_address = integer_of(owner, str_with_local_address)) < 0) {
        return NULL;
    }
    request.counts = PyObject_GetAttr(owner, str_counts);
    PyObject *fresh = request.counts == NULL ? NULL : PyList_New(0);
    if (fresh == NULL) {
        Py_XDECREF(request.counts);
        return NULL;
    }
    PyObject *type = NULL, *value = NULL, *traceback = NULL;
    if (receive_into(self, &request, fresh, limit) < 0) {
        PyErr_Fetch(&type, &value, &traceback);
    }
    /* What was received before an error belongs to the caller all the same. */
    if (PyList_Size(fresh)) {
        extended = PyObject_CallMethodObjArgs(into, str_extend, fresh, NULL);
    }
    int failed = PyErr_Occurred() != NULL;
    if (type != NULL) {
        PyErr_Restore(type, value, traceback);
        failed = 1;
    }
    Py_XDECREF(extended);
    Py_DECREF(fresh);
    Py_DECREF(request.counts);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* Sending */

/* Fill in the kernel's form of a (host, port) tuple and return its size; 0, without an exception, if it is not exactly
   that: Python resolves, or refuses, everything else. */
static socklen_t
pack_address(KernelCalls *self, PyObject *address, SocketAddress *packed)
{
    if (!PyTuple_Check(address) || PyTuple_Size(address) != 2) {
        return 0;
    }
    PyObject *host = PyTuple_GetItem(address, 0), *port = PyTuple_GetItem(address, 1);
    if (!PyUnicode_CheckExact(host) || !PyLong_CheckExact(port)) {
        return 0;
    }
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(host, &length);
    long number = PyLong_AsLong(port);
    memset(packed, 0, sizeof *packed);
    void *octets = self->family == AF_INET ? (void *)&packed->ipv4.sin_addr : (void *)&packed->ipv6.sin6_addr;
    if (text == NULL || strlen(text) != (size_t)length || number < 0 || number > 65535
        || inet_pton(self->family, text, octets) != 1) {
        PyErr_Clear();
        return 0;
    }
    packed->any.sa_family = self->family;
    packed->ipv4.sin_port = htons((in_port_t)number);
    return address_size(self);
}

/* Send one payload, to the peer if ``size`` is 0, and return None. */
static PyObject *
send_one(KernelCalls *self, PyObject *payload, const SocketAddress *address, socklen_t size)
{
    int descriptor = descriptor_of(self);
    char *data;
    Py_ssize_t length, sent;
    PyBytes_AsStringAndSize(payload, &data, &length);
    Py_BEGIN_ALLOW_THREADS
    sent = sendto(descriptor, data, length, MSG_DONTWAIT, size ? &address->any : NULL, size);
    Py_END_ALLOW_THREADS
    if (sent < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_NewRef(Py_None);
}

PyDoc_STRVAR(sendto_doc, "sendto(payload, sockaddr, /)\n--\n\nSend one datagram to an address (HotCalls.sendto).");

static PyObject *
calls_sendto(KernelCalls *self, PyObject *const *arguments, Py_ssize_t count)
{
    SocketAddress packed;
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "sendto takes 2 arguments, not %zd", count);
    }
    socklen_t size = PyBytes_CheckExact(arguments[0]) ? pack_address(self, arguments[1], &packed) : 0;
    if (!size) {
        return PyObject_CallFunctionObjArgs(self->sendto, arguments[0], arguments[1], NULL);
    }
    return send_one(self, arguments[0], &packed, size);
}

PyDoc_STRVAR(send_doc, "send(payload, /)\n--\n\nSend one datagram to the peer (HotCalls.send).");

static PyObject *
calls_send(KernelCalls *self, PyObject *payload)
{
    if (!PyBytes_CheckExact(payload)) {
        return PyObject_CallFunctionObjArgs(self->send, payload, NULL);
    }
    return send_one(self, payload, NULL, 0);
}

PyDoc_STRVAR(send_batch_doc, "send_batch(payloads, sockaddrs, start, /)\n--\n\n"
"Send datagrams from the lists, from the position ``start`` on, by one sendmmsg(2).\n\n"
"It ends before the first one for the peer, since an error of the network that the kernel reports in the middle of a call\n"
"is lost, and before one whose payload or address is not handled here.\n\n"
"Returns:\n"
"  How many were sent; 0 if the first one is not for this function.\n\n"
"Raises:\n"
"  OSError: if the kernel refuses the first one.");

static PyObject *
calls_send_batch(KernelCalls *self, PyObject *const *arguments, Py_ssize_t count)
{
    SocketAddress addresses[LARGEST_CALL];
    struct iovec vectors[LARGEST_CALL];
    struct mmsghdr messages[LARGEST_CALL];
    PyObject *payloads[LARGEST_CALL];
    if (count != 3 || !PyList_Check(arguments[0]) || !PyList_Check(arguments[1])) {
        return PyErr_Format(PyExc_TypeError, "send_batch takes two lists and a position");
    }
    Py_ssize_t start = PyLong_AsSsize_t(arguments[2]), end = PyList_Size(arguments[0]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    end = end > PyList_Size(arguments[1]) ? PyList_Size(arguments[1]) : end;
    int descriptor = descriptor_of(self), most = 0, sent = 0;
    for (Py_ssize_t index = start; index >= 0 && index < end && most < LARGEST_CALL; index++) {
        PyObject *payload = PyList_GetItem(arguments[0], index), *sockaddr = PyList_GetItem(arguments[1], index);
        socklen_t size = PyBytes_CheckExact(payload) ? pack_address(self, sockaddr, &addresses[most]) : 0;
        if (!size) {
            break;
        }
        vectors[most] = (struct iovec){PyBytes_AsString(payload), (size_t)PyBytes_Size(payload)};
        messages[most].msg_hdr = (struct msghdr){
            .msg_name = &addresses[most], .msg_namelen = size, .msg_iov = &vectors[most], .msg_iovlen = 1};
        /* Another thread may change the list while the GIL is released. */
        payloads[most++] = Py_NewRef(payload);
    }
    if (most) {
        Py_BEGIN_ALLOW_THREADS
        sent = sendmmsg(descriptor, messages, most, MSG_DONTWAIT);
        Py_END_ALLOW_THREADS
    }
    if (sent < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    for (int index = 0; index < most; index++) {
        Py_DECREF(payloads[index]);
    }
    return sent < 0 ? NULL : PyLong_FromLong(sent);
}

/* The type */

PyDoc_STRVAR(kernel_calls_doc, "KernelCalls(sock, family, source_type, send, sendto)\n--\n\n"
"The hot calls of one internet socket.\n\n"
"Args:\n"
"  sock: the standard library's socket.\n"
"  family: AF_INET or AF_INET6.\n"
"  source_type: the class of its sources without a zone, a tuple of host and port.\n"
"  send: the method of the socket, for payloads that are not exact bytes.\n"
"  sendto: likewise, and for addresses that are not numeric.");

static PyObject *
kernel_calls_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    KernelCalls *self = (KernelCalls *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    (void)keywords;
    self->per_message = 1;
    if (!PyArg_ParseTuple(arguments, "OiOOO", &self->socket, &self->family, &self->source_type, &self->send,
                          &self->sendto)) {
        /* The parsed references are borrowed. */
        self->socket = self->source_type = self->send = self->sendto = NULL;
        Py_DECREF(self);
        return NULL;
    }
    Py_INCREF(self->socket);
    Py_INCREF(self->source_type);
    Py_INCREF(self->send);
    Py_INCREF(self->sendto);
    return (PyObject *)self;
}

static int
kernel_calls_traverse(KernelCalls *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->socket);
    Py_VISIT(self->source_type);
    Py_VISIT(self->send);
    Py_VISIT(self->sendto);
    return 0;
}

static int
kernel_calls_clear(KernelCalls *self)
{
    Py_CLEAR(self->socket);
    Py_CLEAR(self->source_type);
    Py_CLEAR(self->send);
    Py_CLEAR(self->sendto);
    return 0;
}

static void
kernel_calls_dealloc(KernelCalls *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    kernel_calls_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMethodDef kernel_calls_methods[] = {
    {"receive", (PyCFunction)(void (*)(void))calls_receive, METH_FASTCALL, receive_doc},
    {"sendto", (PyCFunction)(void (*)(void))calls_sendto, METH_FASTCALL, sendto_doc},
    {"send_batch", (PyCFunction)(void (*)(void))calls_send_batch, METH_FASTCALL, send_batch_doc},
    {"send", (PyCFunction)calls_send, METH_O, send_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot kernel_calls_slots[] = {
    {Py_tp_doc, (void *)kernel_calls_doc},
    {Py_tp_new, kernel_calls_new},
    {Py_tp_traverse, kernel_calls_traverse},
    {Py_tp_clear, kernel_calls_clear},
    {Py_tp_dealloc, kernel_calls_dealloc},
    {Py_tp_methods, kernel_calls_methods},
    {0, NULL},
};

static PyType_Spec kernel_calls_spec = {
    .name = "trio_dgram._kernel.native.KernelCalls",
    .basicsize = sizeof(KernelCalls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = kernel_calls_slots,
};

/* The module */

PyDoc_STRVAR(configure_doc, "configure(datagram_type, cached_local_info)\n--\n\n"
"Set what received datagrams are made of.\n\n"
"Args:\n"
"  datagram_type: the class Datagram.\n"
"  cached_local_info: returns the PacketInfo for the control messages of a datagram, None for unknown ones.");

static PyObject *
configure(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *type, *local_info;
    if (!PyArg_ParseTuple(arguments, "OO", &type, &local_info)) {
        return NULL;
    }
    datagram_type = Py_NewRef(type);
    cached_local_info = Py_NewRef(local_info);
    return Py_NewRef(Py_None);
}

static PyMethodDef native_methods[] = {
    {"configure", configure, METH_VARARGS, configure_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "trio_dgram._kernel.native",
    .m_doc = "The hot calls and methods in C.",
    .m_size = -1,
    .m_methods = native_methods,
};

PyMODINIT_FUNC
PyInit_native(void)
{
    new_tuple = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    str_own_port = PyUnicode_InternFromString("_own_port");
    str_coalescing = PyUnicode_InternFromString("coalescing");
    str_with_info = PyUnicode_InternFromString("with_info");
    str_with_local_address = PyUnicode_InternFromString("with_local_address");
    str_counts = PyUnicode_InternFromString("counts");
    str_extend = PyUnicode_InternFromString("extend");
    str_permitted = PyUnicode_InternFromString("_permitted");
    str_coalesced_receives = PyUnicode_InternFromString("coalesced_receives");
    str_coalesced_datagrams = PyUnicode_InternFromString("coalesced_datagrams");
    PyObject *module = PyErr_Occurred() ? NULL : PyModule_Create(&native_module);
    PyObject *type = module == NULL ? NULL : PyType_FromSpec(&kernel_calls_spec);
    if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_CLEAR(module);
    }
    Py_XDECREF(type);
    return module;
}
