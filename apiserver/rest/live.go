package rest

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// getLive serves GET of one object of a kind that is found out anew for every reader, whatever version is asked for.
func (h *Handler) getLive(w http.ResponseWriter, r *http.Request, t *target) error {
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	if _, err := getOptions(r.URL.Query()); err != nil {
		return err
	}
	live, err := t.resource.Live(r.Context(), t.namespace, t.name)
	if err != nil {
		return err
	}
	for _, obj := range live {
		if obj.GetName() == t.name {
			return answerItem(w, r, t.resource, out, http.StatusOK, loose{obj})
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: t.resource.Group, Resource: t.resource.Singular}, t.name)
}

// listLive serves GET of all objects of such a kind that are selected. There are few, so there are no pages.
func (h *Handler) listLive(w http.ResponseWriter, r *http.Request, t *target) error {
	out, err := codec.Negotiate(r, t.offer())
	if err != nil {
		return err
	}
	options, err := readSelection(r, t)
	if err != nil {
		return err
	}
	live, err := t.resource.Live(r.Context(), t.namespace, "")
	if err != nil {
		return err
	}
	items := []loose{}
	for _, obj := range live {
		if (options.Name == "" || options.Name == obj.GetName()) && options.Selects(obj) {
			items = append(items, loose{obj})
		}
	}
	table, err := codec.ParseTableOptions(r, out)
	if err != nil {
		return err
	}
	return answer{code: http.StatusOK, out: out, encode: func(out codec.Output) (codec.Body, error) {
		return codec.EncodeList(out, items, t.resource, metav1.ListMeta{}, table)
	}}.send(w, r)
}

// watchLive refuses to watch what nobody is told of.
func (h *Handler) watchLive(_ http.ResponseWriter, _ *http.Request, t *target) error {
	return apierrors.NewMethodNotSupported(t.resource.GR(), "watch")
}
