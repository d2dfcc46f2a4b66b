package discovery

import (
	"crypto/sha512"
	"fmt"
	"net/http"
	"sync"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// aggregatedKind is the form of the roots that lists all resources at once.
var aggregatedKind = apidiscovery.SchemeGroupVersion.WithKind("APIGroupDiscoveryList")

// page is one document in the forms it has; aggregated is nil below the roots.
// strict pages are those whose media types kube-apiserver matches twice, by its
// routes first: in them, ranges such as application/* are not acceptable.
type page struct {
	plain, aggregated runtime.Object
	strict            bool
	// anyMethod pages answer whatever the method; others only GET.
	anyMethod bool

	mu      sync.Mutex
	encoded map[codec.Output]encoded
}

// encoded are the bytes of a document in one form, and the tag they are known
// by.
type encoded struct {
	body codec.Body
	tag  string
}

// write answers in the form asked for. Clients that have the aggregated form
// already are told so.
func (p *page) write(w http.ResponseWriter, r *http.Request) error {
	offer := codec.Offer{Protobuf: true}
	if p.aggregated != nil {
		offer.Kinds = []schema.GroupVersionKind{aggregatedKind}
	}
	if p.strict {
		if err := codec.Acceptable(r, offer, false); err != nil {
			return err
		}
	}
	out, err := codec.Negotiate(r, offer)
	if err != nil {
		return err
	}
	e, err := p.encode(out)
	if err != nil {
		return err
	}
	if out.As.Empty() {
		e.body.Write(w, r, http.StatusOK, out.Media) // an error is the client's leaving
		return nil
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "public")
	w.Header().Set("ETag", e.tag)
	if r.Header.Get("If-None-Match") == e.tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	e.body.WriteAs(w, r, http.StatusOK, fmt.Sprintf("%s;g=%s;v=%s;as=%s", out.Media, out.As.Group, out.As.Version, out.As.Kind))
	return nil
}

// encode makes the bytes of a form, once.
func (p *page) encode(out codec.Output) (encoded, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.encoded[out]; ok {
		return e, nil
	}
	obj := p.plain
	if !out.As.Empty() {
		obj = p.aggregated
	}
	body, err := out.Encode(obj)
	if err != nil {
		return encoded{}, err
	}
	e := encoded{body: body}
	hash := sha512.New()
	for _, piece := range body {
		hash.Write(piece)
	}
	e.tag = fmt.Sprintf("%q", fmt.Sprintf("%X", hash.Sum(nil)))
	if p.encoded == nil {
		p.encoded = make(map[codec.Output]encoded)
	}
	p.encoded[out] = e
	return e, nil
}
