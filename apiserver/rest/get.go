package rest

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// get serves GET of one object, and of the views of it.
func (h *Handler) get(w http.ResponseWriter, r *http.Request, t *target) error {
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	var version string
	if r.URL.RawQuery != "" {
		options, err := getOptions(r.URL.Query())
		if err != nil {
			return err
		}
		version = options.ResourceVersion
	}
	item, err := h.read(r, t, version)
	if err != nil {
		return err
	}
	return h.answer(w, r, t, out, http.StatusOK, item)
}

// read gets the item a request names. With a resourceVersion, what the cache
// has is new enough if it has reached it; without, the newest is read.
func (h *Handler) read(r *http.Request, t *target, version string) (*store.Item, error) {
	if version == "" {
		item, err := h.Store.Get(r.Context(), t.resource, t.namespace, t.name)
		return item, fromStore(err, t.resource, t.name)
	}
	atLeast, err := store.ParseVersion(version)
	if err != nil {
		return nil, err // 500, oddly, but so it is
	}
	items, _, err := h.Store.Snapshot(r.Context(), t.resource, store.Match{Namespace: t.namespace, Name: t.name}, atLeast)
	if err != nil {
		return nil, fromStore(err, t.resource, t.name)
	}
	if len(items) == 0 {
		return nil, apierrors.NewNotFound(t.resource.GR(), t.name)
	}
	return items[0], nil
}

// answer writes one item as the client wants it.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, t *target, out codec.Output, code int, item codec.Item) error {
	return answerItem(w, r, t.resource, out, code, item)
}

func answerItem(w http.ResponseWriter, r *http.Request, kind *resource.Resource, out codec.Output, code int, item codec.Item) error {
	table, err := codec.ParseTableOptions(r, out)
	if err != nil {
		return err
	}
	return answer{code: code, out: out, encode: func(out codec.Output) (codec.Body, error) {
		return out.EncodeItem(item, kind, table)
	}}.send(w, r)
}
