package rest

import (
	"maps"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// createSub serves POST to a subresource that acts on its object: binding,
// eviction, token.
func (h *Handler) createSub(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	body, err := decodeBody(r, t, options.FieldValidation)
	if err != nil {
		return err
	}
	askedAs(r, body, t.kind())
	if obj, ok := body.(metav1.Object); ok {
		if err := place(obj, t.namespace); err != nil {
			return err
		}
	}
	wr := newWrite(r, t, options, options.FieldManager, options.DryRun)
	if err := h.pass(ctx, wr, h.attributes(ctx, wr, "create", body, nil)); err != nil {
		return err
	}
	result, err := t.sub.Create(ctx, resource.Call{
		Cluster: h.Cluster(), Resource: t.resource.Stored, Namespace: t.namespace, Name: t.name, DryRun: wr.dryRun, Options: options,
	}, body)
	if err != nil {
		return fromStore(err, t.resource, t.name)
	}
	return answerResult(w, r, http.StatusCreated, result, t.kind())
}

// answerResult writes what an action returned; a Status carries its own code.
func answerResult(w http.ResponseWriter, r *http.Request, code int, result runtime.Object, kind schema.GroupVersionKind) error {
	out, err := codec.Negotiate(r, codec.Offer{Protobuf: codec.HasProtobuf(result)})
	if err != nil {
		return err
	}
	status, ok := result.(*metav1.Status)
	if ok {
		kind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}
		if status.Code == 0 {
			status.Code = int32(code)
		}
		code = int(status.Code)
	}
	if own := result.GetObjectKind().GroupVersionKind(); !own.Empty() {
		kind = own
	}
	return answer{code: code, out: out, status: status, encode: func(out codec.Output) (codec.Body, error) {
		return out.Encode(codec.As(result, kind))
	}}.send(w, r)
}

// decodeBody reads what acts on the object, in any version the subresource takes.
func decodeBody(r *http.Request, t *target, validation string) (runtime.Object, error) {
	into := t.sub.NewBody()
	body, in, err := readSub(r, t, validation, into)
	if err != nil {
		return nil, err
	}
	decoded, err := codec.DecodeVersion(body, in, slices.Collect(maps.Keys(t.sub.Convert)), into)
	if err != nil {
		return nil, err
	}
	if convert := t.sub.Convert[decoded.GetObjectKind().GroupVersionKind().GroupVersion()]; convert != nil {
		return convert(decoded), nil
	}
	return decoded, nil
}

func decodeSub(r *http.Request, t *target, validation string, into runtime.Object) error {
	body, in, err := readSub(r, t, validation, into)
	if err != nil {
		return err
	}
	return codec.Decode(body, in, into)
}

// readSub reads a body that is not the object itself, and says how to decode it.
func readSub(r *http.Request, t *target, validation string, into runtime.Object) ([]byte, codec.Input, error) {
	media, err := codec.NegotiateInput(r, codec.HasProtobuf(into))
	if err != nil {
		return nil, codec.Input{}, err
	}
	body, err := codec.ReadBody(r)
	return body, codec.Input{Media: media, Kind: t.kind(), Validation: validation,
		Warn: func(text string) { request.Warn(r.Context(), text) }}, err
}
