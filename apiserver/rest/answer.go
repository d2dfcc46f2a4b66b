package rest

import (
	"bytes"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/audit"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/tracing"
)

// answer is what a request is answered with.
type answer struct {
	code int
	out  codec.Output
	// status is set if the answer is one.
	status *metav1.Status
	// encode makes the body, of the same for every output.
	encode func(codec.Output) (codec.Body, error)
}

// send answers r with a. The audit event of the request gets the answer in JSON, if the policy wants it to.
func (a answer) send(w http.ResponseWriter, r *http.Request) error {
	_, end := tracing.Start(r.Context(), "Encode")
	body, err := a.encode(a.out)
	end()
	if err != nil {
		return err
	}
	audit.From(r.Context()).Answered(a.status, func() ([]byte, error) {
		body, err := a.encode(codec.Output{As: a.out.As})
		return bytes.Join(body, nil), err
	})
	_, end = tracing.Start(r.Context(), "Write the answer")
	defer end()
	body.Write(w, r, a.code, a.out.Media) // an error here is the client's leaving
	return nil
}

// asked tells the audit event of r what object of a kind it brought.
func asked(r *http.Request, obj runtime.Object, encode func(codec.Output) (codec.Body, error)) {
	audit.From(r.Context()).Asked(obj, func() ([]byte, error) {
		body, err := encode(codec.Output{})
		return bytes.Join(body, nil), err
	})
}

// askedAs is asked for an object that is no resource.
func askedAs(r *http.Request, obj runtime.Object, kind schema.GroupVersionKind) {
	asked(r, obj, func(out codec.Output) (codec.Body, error) { return out.Encode(codec.As(obj, kind)) })
}
