package skifftest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// strike answers a request as its fault has it, with the help of serve.
func (c *Cluster) strike(r *http.Request, asked Request, serve func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	f := asked.Fault
	switch f.kind {
	case conflict, expired, refusedWebhook:
		return refusal(r, f.status(asked))
	case latency:
		if err := sleep(r.Context(), f.delay); err != nil {
			return nil, err
		}
	case restart:
		if err := c.within(c.restart); err != nil {
			return nil, err
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	answer, err := serve(r)
	if err != nil {
		return nil, err
	}
	switch f.kind {
	case lostAnswer:
		answer.Body.Close()
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	case droppedWatch, delayedWatch, staleCache:
		ctx, cancel := context.WithCancel(r.Context())
		answer.Body = &struckBody{body: answer.Body, events: bufio.NewReader(answer.Body), frames: answer.Header.Get("Content-Type") == protobuf,
			fault: f, ctx: ctx, cancel: cancel}
	}
	return answer, nil
}

// status is what the API server says when f happens.
func (f Fault) status(r Request) *apierrors.StatusError {
	switch f.kind {
	case conflict:
		return apierrors.NewConflict(schema.GroupResource{Group: r.Group, Resource: r.Resource}, r.Name,
			fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	case expired:
		if r.Verb == "list" {
			return apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.")
		}
		return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %s", r.ResourceVersion))
	}
	return apierrors.NewInternalError(fmt.Errorf("failed calling webhook %q: failed to call webhook: Post %q: dial tcp 192.0.2.1:443: connect: connection refused",
		"chaos.skiff.dev", "https://chaos.default.svc:443/?timeout=10s"))
}

// refusal is the answer with a status, of a server that has not looked at the request any further.
func refusal(r *http.Request, status *apierrors.StatusError) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	s := status.Status()
	s.Kind, s.APIVersion = "Status", "v1"
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: strconv.Itoa(int(s.Code)) + " " + http.StatusText(int(s.Code)), StatusCode: int(s.Code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)), Request: r,
	}, nil
}

// protobuf is the type of watches whose events have their length before them; those of others end with their line.
const protobuf = "application/vnd.kubernetes.protobuf;stream=watch"

// struckBody is that of a watch to which something happens.
type struckBody struct {
	body   io.Closer
	events *bufio.Reader
	frames bool
	fault  Fault
	ctx    context.Context
	cancel context.CancelFunc

	came int    // events
	left []byte // of the last one
}

// Read implements io.Reader. What is held back has come: no read waits that would have to wait for the server too.
func (b *struckBody) Read(p []byte) (int, error) {
	if len(b.left) == 0 {
		event, err := b.event()
		if err != nil {
			return 0, err
		}
		if err := b.strike(); err != nil {
			return 0, err
		}
		b.came++
		b.left = event
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// event reads one.
func (b *struckBody) event() ([]byte, error) {
	if !b.frames {
		return b.events.ReadBytes('\n')
	}
	const head = 4
	length, err := b.events.Peek(head)
	if err != nil {
		return nil, err
	}
	event := make([]byte, head+binary.BigEndian.Uint32(length))
	_, err = io.ReadFull(b.events, event)
	return event, err
}

// strike does to an event that has come what the fault does.
func (b *struckBody) strike() error {
	now := b.came == b.fault.after
	switch {
	case b.fault.kind == droppedWatch && now:
		b.Close()
		return io.ErrUnexpectedEOF
	case b.fault.kind == delayedWatch, b.fault.kind == staleCache && now:
		return sleep(b.ctx, b.fault.delay)
	}
	return nil
}

// Close implements io.Closer.
func (b *struckBody) Close() error {
	b.cancel()
	return b.body.Close()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
