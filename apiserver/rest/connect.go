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
	if t.sub.Name != "log" { // reading a log is a get
		wr := newWrite(r, t, nil, "", nil)
		a := h.attributes(r.Context(), wr, "connect", nil, nil)
		if err := h.Admission.Mutate(r.Context(), a); err != nil {
			return admissionError(wr, err)
		}
		if err := h.Admission.Validate(r.Context(), a); err != nil {
			return admissionError(wr, err)
		}
	}
	var path string
	if parts := request.From(r.Context()).Parts; len(parts) > 3 {
		path = strings.Join(parts[3:], "/")
	}
	err := h.Connect(w, r, Connection{Resource: t.resource, Sub: t.sub, Namespace: t.namespace, Name: t.name, Path: path})
	return fromStore(err, t.resource, t.name)
}
