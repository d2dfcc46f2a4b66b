package rest

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// deleteCollection serves DELETE of a collection. It is no transaction: after
// an error some objects are deleted and some are not.
func (h *Handler) deleteCollection(w http.ResponseWriter, r *http.Request, t *target) error {
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	selected, err := readSelection(r, t)
	if err != nil {
		return err
	}
	options, err := deleteOptions(r)
	if err != nil {
		return err
	}
	warnOrphans(r.Context(), t.resource.Stored, options)
	page, err := h.Store.List(r.Context(), t.resource, selected)
	if err != nil {
		return fromStore(err, t.resource, "")
	}
	if err := h.deleteAll(r.Context(), newWrite(r, t, options, "", options.DryRun), page.Items, options); err != nil {
		return err
	}
	return answerList(w, r, t, out, page)
}

// deleteAll deletes items one after the other; those that are gone already are
// no error.
func (h *Handler) deleteAll(ctx context.Context, w *write, items []*store.Item, options *metav1.DeleteOptions) error {
	for _, item := range items {
		one, t := *w, *w.target
		one.collection = true
		t.namespace, t.name = item.Object().GetNamespace(), item.Object().GetName()
		one.target = &t
		if _, _, err := h.deleteObject(ctx, &one, options); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
