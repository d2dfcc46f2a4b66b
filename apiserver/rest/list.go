package rest

import (
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/store"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// list serves GET of a collection.
func (h *Handler) list(w http.ResponseWriter, r *http.Request, t *target) error {
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	options, err := readSelection(r, t)
	if err != nil {
		return err
	}
	ctx, end := tracing.Start(r.Context(), "List from the store")
	page, err := h.Store.List(ctx, t.resource, options)
	end()
	if err != nil {
		return fromStore(err, t.resource, "")
	}
	if to := receiver(r.Context()); to != nil {
		return giveList(w, t, page, to)
	}
	return answerList(w, r, t, out, page)
}

// readSelection is what a request about a collection asks for.
func readSelection(r *http.Request, t *target) (store.ListOptions, error) {
	o, err := listOptions(r.URL.Query(), true)
	if err != nil {
		return store.ListOptions{}, err
	}
	selected, err := match(t, o.LabelSelector, o.FieldSelector)
	return store.ListOptions{
		Match: selected, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch, Limit: o.Limit, Continue: o.Continue,
	}, err
}

// answerList writes a page as the client wants it.
func answerList(w http.ResponseWriter, r *http.Request, t *target, out codec.Output, page *store.Page) error {
	table, err := codec.ParseTableOptions(r, out)
	if err != nil {
		return err
	}
	about := metav1.ListMeta{ResourceVersion: strconv.FormatInt(page.Revision, 10), Continue: page.Continue, RemainingItemCount: page.Remaining}
	return answer{code: http.StatusOK, out: out, encode: func(out codec.Output) (codec.Body, error) {
		return codec.EncodeList(out, page.Items, t.resource, about, table)
	}}.send(w, r)
}
