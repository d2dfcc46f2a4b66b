package rest

import (
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

// connect serves streaming subresources: logs, exec, proxies.
func (h *Handler) connect(w http.ResponseWriter, r *http.Request, t *target) error {
	if len(r.URL.Query()["dryRun"]) > 0 {
		return apierrors.NewBadRequest("dryRun is not supported")
	}
	if h.Connect == nil {
		return errNoResource
	}
	var path string
	if parts := request.From(r.Context()).Parts; len(parts) > 3 {
		path = strings.Join(parts[3:], "/")
	}
	if t.sub.Name != "log" { // reading a log is a get
		var err error
		if r, path, err = h.admitConnection(r, t, path); err != nil {
			return err
		}
	}
	err := h.Connect(w, r, Connection{Resource: t.resource, Sub: t.sub, Namespace: t.namespace, Name: t.name, Path: path})
	return fromStore(err, t.resource, t.name)
}

// admitConnection takes the options of a connection through admission. What it returns is the request as if the client
// had asked for what admission made of them.
func (h *Handler) admitConnection(r *http.Request, t *target, path string) (*http.Request, string, error) {
	asked, err := connectionOptions(t.sub.Kind, r.URL.Query(), withSlashes(path, r.URL.Path))
	if err != nil {
		return nil, "", err
	}
	options := asked.DeepCopyObject()
	wr := newWrite(r, t, nil, "", nil)
	if err := h.pass(r.Context(), wr, h.attributes(r.Context(), wr, "connect", options, nil)); err != nil {
		return nil, "", err
	}
	return reconnect(r, path, asked, options)
}

// withSlashes is the path below a connection as the options have it: with a slash in front, and behind if the URL has one.
func withSlashes(path, url string) string {
	if path == "" {
		return ""
	}
	path = "/" + path
	if strings.HasSuffix(url, "/") && !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path
}
