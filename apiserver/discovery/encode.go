package discovery

import (
	"bytes"
	"crypto/sha512"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

const (
	mediaJSON       = "application/json"
	mediaYAML       = "application/yaml"
	mediaProtobuf   = "application/vnd.kubernetes.protobuf"
	aggregatedForm  = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	notAcceptedText = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
)

// form is one way to write a document.
type form struct {
	media              string
	aggregated, pretty bool
}

func (f form) contentType() string {
	if f.aggregated {
		return f.media + ";" + aggregatedForm
	}
	return f.media
}

// encodings keeps the bytes of a page, made once per form.
type encodings struct {
	mu    sync.Mutex
	bytes map[form][]byte
}

// get returns the bytes of f, made by encode if this is the first time.
func (c *encodings) get(f form, encode func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.bytes[f]; ok {
		return b, nil
	}
	b, err := encode()
	if err != nil {
		return nil, err
	}
	if c.bytes == nil {
		c.bytes = make(map[form][]byte)
	}
	c.bytes[f] = b
	return b, nil
}

type encoder struct{ serializers map[form]runtime.Serializer }

func newEncoder() *encoder {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(apidiscovery.AddToScheme(scheme))
	serializer := func(o json.SerializerOptions) runtime.Serializer {
		return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, o)
	}
	return &encoder{serializers: map[form]runtime.Serializer{
		{media: mediaJSON}:               serializer(json.SerializerOptions{}),
		{media: mediaJSON, pretty: true}: serializer(json.SerializerOptions{Pretty: true}),
		{media: mediaYAML}:               serializer(json.SerializerOptions{Yaml: true}),
		{media: mediaProtobuf}:           protobuf.NewSerializer(scheme, scheme),
	}}
}

func (e *encoder) encode(obj runtime.Object, f form) ([]byte, error) {
	f.aggregated = false
	var b bytes.Buffer
	if err := e.serializers[f].Encode(obj, &b); err != nil {
		return nil, fmt.Errorf("encode %T as %s: %w", obj, f.media, err)
	}
	return b.Bytes(), nil
}

func (e *encoder) write(w http.ResponseWriter, r *http.Request, p *page) {
	f, ok := negotiate(r, p.aggregated != nil)
	if !ok {
		e.writeStatus(w, r, http.StatusNotAcceptable, "NotAcceptable", notAcceptedText)
		return
	}
	obj := p.plain
	if f.aggregated {
		obj = p.aggregated
	}
	body, err := p.cache.get(f, func() ([]byte, error) { return e.encode(obj, f) })
	if err != nil {
		e.writeStatus(w, r, http.StatusInternalServerError, metav1.StatusReasonInternalError, err.Error())
		return
	}
	if f.aggregated {
		w.Header().Set("Vary", "Accept")
		w.Header().Set("Cache-Control", "public")
		tag := fmt.Sprintf("%q", fmt.Sprintf("%X", sha512.Sum512(body)))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Header().Set("Content-Type", f.contentType())
	w.Write(body)
}

// writeStatus answers with an error, in the form asked for where that is
// possible, else in JSON.
func (e *encoder) writeStatus(w http.ResponseWriter, r *http.Request, code int, reason metav1.StatusReason, message string) {
	f, ok := negotiate(r, false)
	if !ok {
		f = form{media: mediaJSON, pretty: pretty(r)}
	}
	status := &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}
	if code == http.StatusNotFound {
		status.Details = &metav1.StatusDetails{}
	}
	body, err := e.encode(status, f)
	if err != nil {
		http.Error(w, message, code)
		return
	}
	w.Header().Set("Content-Type", f.media)
	w.WriteHeader(code)
	w.Write(body)
}

// negotiate picks the first form of the Accept header, by weight, that can be
// written. The aggregated form is chosen only when its group, version and kind
// are all asked for; other parameters that name a kind rule a clause out.
func negotiate(r *http.Request, aggregatable bool) (form, bool) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		return form{media: mediaJSON, pretty: pretty(r)}, true
	}
	for _, c := range clauses(accept) {
		media, ok := known(c.media)
		if !ok {
			continue
		}
		f := form{media: media, pretty: media == mediaJSON && pretty(r)}
		kind := c.params["g"] + "/" + c.params["v"] + "/" + c.params["as"]
		switch {
		case kind == "//":
			return f, true
		case aggregatable && kind == "apidiscovery.k8s.io/v2/APIGroupDiscoveryList":
			f.aggregated = true
			return f, true
		}
	}
	return form{}, false
}

type clause struct {
	media  string
	params map[string]string
	weight float64
}

// clauses parses an Accept header, heaviest clause first.
func clauses(accept string) []clause {
	var list []clause
	for text := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(text)
		if err != nil {
			continue
		}
		weight := 1.0
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			weight = q
		}
		list = append(list, clause{media, params, weight})
	}
	slices.SortStableFunc(list, func(a, b clause) int {
		switch {
		case a.weight > b.weight:
			return -1
		case a.weight < b.weight:
			return 1
		}
		return 0
	})
	return list
}

func known(media string) (string, bool) {
	switch media {
	case "*/*", "application/*", mediaJSON:
		return mediaJSON, true
	case mediaYAML, mediaProtobuf:
		return media, true
	}
	return "", false
}

// pretty reports whether JSON should be indented: as the query says, else for
// programs that show it to people.
func pretty(r *http.Request) bool {
	if v := r.URL.Query().Get("pretty"); v != "" {
		return v != "0" && v != "false"
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}
