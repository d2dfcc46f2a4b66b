package connect

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/guard"
)

// tunnelPrefix marks WebSockets whose messages are the bytes of a SPDY
// connection.
const tunnelPrefix = "SPDY/3.1+"

func (h *Handler) portForward(w http.ResponseWriter, r *http.Request, t Target) error {
	if err := h.mayCreate(r, t); err != nil {
		return err
	}
	pod, err := h.pod(r.Context(), t, t.Name)
	if err != nil {
		return err
	}
	query := make(url.Values)
	if ports := r.URL.Query()["ports"]; len(ports) > 0 {
		query.Set("port", strings.Join(ports, ","))
	}
	at, err := h.session(r.Context(), pod, fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), query)
	if err != nil {
		return err
	}
	switch {
	case !upgrades(r):
		return apierrors.NewBadRequest("Upgrade request required")
	case isWebSocket(r) && len(tunnels(r)) > 0:
		return h.tunnel(w, r, at)
	}
	h.forward(w, r, at, h.kubelet, nil)
	return nil
}

// tunnels are the protocols a client offers to tunnel.
func tunnels(r *http.Request) []string {
	var inner []string
	for _, p := range offered(r) {
		if rest, ok := strings.CutPrefix(p, tunnelPrefix); ok {
			inner = append(inner, rest)
		}
	}
	return inner
}

// tunnel carries the SPDY connection of a kubelet in a WebSocket. The kubelet
// is asked first, so that its refusal can still be an answer.
func (h *Handler) tunnel(w http.ResponseWriter, r *http.Request, at *url.URL) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	req.Header["X-Stream-Protocol-Version"] = tunnels(r)
	kubelet := &spdyUpgrader{transport: h.kubelet}
	resp, err := kubelet.RoundTrip(req)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("error trying to reach kubelet: %w", err))
	}
	if kubelet.conn == nil {
		defer resp.Body.Close()
		return refusal(resp)
	}
	defer kubelet.conn.Close()
	conn, err := accept(w, r, tunnelPrefix+resp.Header.Get("X-Stream-Protocol-Version"))
	if conn == nil {
		return err
	}
	client := websocket.NetConn(ctx, conn, websocket.MessageBinary)
	defer client.Close()
	join(client, kubelet.conn)
	return nil
}

// join copies both ways and closes both when either ends.
func join(a, b io.ReadWriteCloser) {
	var copies guard.Group
	for _, way := range [][2]io.ReadWriteCloser{{a, b}, {b, a}} {
		copies.Go("streams", func() {
			defer a.Close()
			defer b.Close()
			_, _ = io.Copy(way[0], way[1])
		})
	}
	copies.Wait()
}

// mayCreate asks once more for a session that is opened with GET, as WebSockets
// are: opening one is creating, whatever the method.
func (h *Handler) mayCreate(r *http.Request, t Target) error {
	ctx := r.Context()
	if h.authorizer == nil || r.Method == http.MethodPost {
		return nil
	}
	decision, reason, err := h.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: request.User(ctx), Verb: "create", ResourceRequest: true, Path: r.URL.Path,
		APIGroup: t.Resource.Group, APIVersion: t.Resource.Version,
		Resource: t.Resource.Plural, Subresource: t.Sub.Name, Namespace: t.Namespace, Name: t.Name,
	})
	if err != nil {
		return err
	}
	if decision != authorizer.DecisionAllow {
		return apierrors.NewForbidden(schema.GroupResource{Group: t.Resource.Group, Resource: t.Resource.Plural}, t.Name, fmt.Errorf("%s", reason))
	}
	return nil
}
