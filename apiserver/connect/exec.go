package connect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	remoteconsts "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"github.com/skiff-k8s/skiff/guard"
)

func (h *Handler) exec(w http.ResponseWriter, r *http.Request, t Target) error {
	return h.command(w, r, t, "exec", r.URL.Query()["command"])
}

func (h *Handler) attach(w http.ResponseWriter, r *http.Request, t Target) error {
	return h.command(w, r, t, "attach", nil)
}

// command opens a session with a container.
func (h *Handler) command(w http.ResponseWriter, r *http.Request, t Target, path string, args []string) error {
	if err := h.mayCreate(r, t); err != nil {
		return err
	}
	pod, err := h.pod(r.Context(), t, t.Name)
	if err != nil {
		return err
	}
	asked := r.URL.Query()
	name, err := container(pod, asked.Get("container"))
	if err != nil {
		return err
	}
	wants := streams{in: isTrue(asked, "stdin"), out: isTrue(asked, "stdout"), err: isTrue(asked, "stderr"), tty: isTrue(asked, "tty")}
	at, err := h.session(r.Context(), pod, fmt.Sprintf("/%s/%s/%s/%s", path, pod.Namespace, pod.Name, name), wants.query(args))
	if err != nil {
		return err
	}
	switch {
	case isWebSocket(r):
		return h.translate(w, r, at, wants)
	case !upgrades(r):
		return apierrors.NewBadRequest("Upgrade request required")
	}
	h.forward(w, r, at, h.kubelet, nil)
	return nil
}

// streams are those a session has.
type streams struct{ in, out, err, tty bool }

// query is how a kubelet is asked for them.
func (s streams) query(command []string) url.Values {
	query := make(url.Values)
	for name, wanted := range map[string]bool{"input": s.in, "output": s.out, "error": s.err, "tty": s.tty} {
		if wanted {
			query.Set(name, "1")
		}
	}
	if len(command) > 0 {
		query["command"] = command
	}
	return query
}

// Channels of a session over WebSocket.
const (
	channelIn     = 0
	channelOut    = 1
	channelErr    = 2
	channelStatus = 3
	channelResize = 4
	channelClose  = 255 // v5: the channel in the message is at its end
)

// The protocols of sessions over WebSocket. From v4 on the last message is a
// Status; v5 can end stdin.
var sessionProtocols = []string{
	"v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io",
}

// translate serves a session over WebSocket by one over SPDY.
func (h *Handler) translate(w http.ResponseWriter, r *http.Request, at *url.URL, wants streams) error {
	conn, err := accept(w, r, sessionProtocols...)
	if conn == nil {
		return err
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	isBase64 := strings.Contains(conn.Subprotocol(), "base64")
	to := func(channel byte) io.Writer {
		return &messages{ctx: ctx, conn: conn, base64: isBase64, channel: &channel}
	}
	stdin, typed := io.Pipe()
	sizes := make(sizeQueue, 1)
	options := remotecommand.StreamOptions{Tty: wants.tty}
	first := to(channelStatus)
	if wants.err && !wants.tty {
		options.Stderr = to(channelErr)
		first = options.Stderr
	}
	if wants.out {
		options.Stdout = to(channelOut)
		first = options.Stdout
	}
	if wants.in {
		options.Stdin = stdin
	}
	if wants.tty {
		options.TerminalSizeQueue = sizes
	}
	// An empty message tells old clients that the session stands.
	_, _ = first.Write(nil)
	guard.Go("streams", func() {
		defer cancel()
		defer close(sizes)
		read(ctx, conn, isBase64, typed, sizes)
	})
	err = h.runSession(ctx, at, options)
	_ = stdin.CloseWithError(io.ErrClosedPipe)
	h.sayEnd(conn.Subprotocol(), to(channelStatus), err)
	_ = conn.Close(websocket.StatusNormalClosure, "")
	return nil
}

// read hands on what the client sends until the connection ends.
func read(ctx context.Context, conn *websocket.Conn, isBase64 bool, stdin *io.PipeWriter, sizes sizeQueue) {
	defer stdin.Close()
	for {
		_, message, err := conn.Reader(ctx)
		if err != nil {
			return
		}
		if channel, data, err := split(message, isBase64); err == nil {
			take(ctx, channel, data, stdin, sizes)
		}
		// What was not taken is dropped: a program that reads no more still gets sizes and its end.
		if _, err := io.Copy(io.Discard, message); err != nil {
			return
		}
	}
}

// take does what a message says, as far as it makes sense.
func take(ctx context.Context, channel byte, data io.Reader, stdin *io.PipeWriter, sizes sizeQueue) {
	switch channel {
	case channelIn:
		_, _ = io.Copy(stdin, data)
	case channelClose:
		var which [2]byte
		if n, _ := io.ReadFull(data, which[:]); n == 1 && which[0] == channelIn {
			stdin.Close()
		}
	case channelResize:
		var size remotecommand.TerminalSize
		if json.NewDecoder(io.LimitReader(data, maxTerminalSize)).Decode(&size) == nil {
			sizes.put(ctx, size)
		}
	}
}

// maxTerminalSize is more than the JSON of any terminal size.
const maxTerminalSize = 4 << 10

// sizeQueue hands terminal sizes to a session.
type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) put(ctx context.Context, size remotecommand.TerminalSize) {
	select {
	case q <- size:
	case <-ctx.Done():
	}
}

// Next waits for a size; nil when there will be no more.
func (q sizeQueue) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

func (h *Handler) runSession(ctx context.Context, at *url.URL, options remotecommand.StreamOptions) error {
	spdy := &spdyUpgrader{transport: h.kubelet}
	executor, err := remotecommand.NewSPDYExecutorRejectRedirects(spdy, spdy, http.MethodPost, at)
	if err != nil {
		return err
	}
	err = executor.StreamWithContext(ctx, options)
	return cmp.Or(spdy.broken(), err)
}

// sayEnd tells the client how the session ended.
func (h *Handler) sayEnd(protocol string, to io.Writer, err error) {
	if !strings.HasPrefix(protocol, "v4.") && !strings.HasPrefix(protocol, "v5.") {
		if err != nil {
			_, _ = io.WriteString(to, err.Error())
		}
		return
	}
	if text, err := json.Marshal(endStatus(err)); err == nil {
		_, _ = to.Write(text)
	}
}

func endStatus(err error) metav1.Status {
	if err == nil {
		return metav1.Status{Status: metav1.StatusSuccess}
	}
	var exit exec.CodeExitError
	if errors.As(err, &exit) && exit.Exited() {
		return metav1.Status{
			Status:  metav1.StatusFailure,
			Reason:  remoteconsts.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{
				Type: remoteconsts.ExitCodeCauseType, Message: fmt.Sprint(exit.ExitStatus()),
			}}},
		}
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status()
	}
	return apierrors.NewInternalError(err).Status()
}

// pingPeriod keeps idle sessions alive in whatever lies between.
const pingPeriod = 5 * time.Second
