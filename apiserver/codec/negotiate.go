package codec

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Output is how an answer is to be written.
type Output struct {
	Media  Media
	Pretty bool
	// As is what the object is turned into: Table, PartialObjectMetadata or
	// PartialObjectMetadataList of meta.k8s.io; empty for the object itself.
	As schema.GroupVersionKind
}

// Offer is what an endpoint can answer with besides the object in JSON or YAML.
type Offer struct {
	Protobuf bool // the kind has a protobuf form
	Table    bool
	Partial  bool // metadata only
	// Kinds are others the answer can be turned into.
	Kinds []schema.GroupVersionKind
}

// media are the encodings offered for an object turned into kind as.
func (o Offer) media(as schema.GroupVersionKind) []Media {
	switch {
	case as.Empty() && !o.Protobuf, as.Kind == "Table":
		return []Media{JSON, YAML}
	}
	return []Media{JSON, YAML, Protobuf}
}

func (o Offer) allows(as schema.GroupVersionKind) bool {
	if as.Empty() || slices.Contains(o.Kinds, as) {
		return true
	}
	if as.Group != metav1.GroupName || as.Version != "v1" && as.Version != "v1beta1" {
		return false
	}
	switch as.Kind {
	case "Table":
		return o.Table
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return o.Partial
	}
	return false
}

// Negotiate chooses the answer by the Accept header; the error is 406.
func Negotiate(r *http.Request, offer Offer) (Output, error) {
	return negotiate(r, offer, "")
}

// NegotiateWatch is Negotiate for watches.
func NegotiateWatch(r *http.Request, offer Offer) (Output, error) {
	return negotiate(r, offer, streamSuffix)
}

const streamSuffix = ";stream=watch"

func negotiate(r *http.Request, offer Offer, suffix string) (Output, error) {
	accept := r.Header.Get("Accept")
	out, ok := Output{}, accept == ""
	clauses := []goautoneg.Accept(nil)
	if !ok {
		clauses = goautoneg.ParseAccept(accept)
	}
	for _, clause := range clauses {
		if out, ok = offer.take(clause, suffix != ""); ok {
			break
		}
	}
	if !ok || suffix != "" && out.Media == YAML {
		return Output{}, notAcceptable(offer, suffix)
	}
	out.Pretty = out.Media == JSON && (out.Pretty || wantsPretty(r))
	return out, nil
}

// take answers one clause of an Accept header.
func (o Offer) take(clause goautoneg.Accept, stream bool) (Output, bool) {
	out := Output{As: schema.GroupVersionKind{Group: clause.Params["g"], Version: clause.Params["v"], Kind: clause.Params["as"]}}
	if s := clause.Params["stream"]; s != "" && s != "watch" {
		return out, false
	}
	if v := clause.Params["sv"]; v != "" && v != "v1" {
		return out, false
	}
	if !o.allows(out.As) {
		return out, false
	}
	out.Pretty = clause.Params["pretty"] == "1"
	for _, m := range o.media(out.As) {
		kind, sub, _ := strings.Cut(m.String(), "/")
		if (clause.Type == "*" && clause.SubType == "*") || clause.Type == kind && (clause.SubType == "*" || clause.SubType == sub) {
			out.Media = m
			return out, true
		}
	}
	return out, false
}

// wantsPretty follows the pretty parameter, else it knows the tools people
// read answers with.
func wantsPretty(r *http.Request) bool {
	if strings.Contains(r.URL.RawQuery, "pretty") {
		if p := r.URL.Query().Get("pretty"); p != "" {
			on, _ := strconv.ParseBool(p)
			return on
		}
	}
	agent := r.UserAgent()
	return slices.ContainsFunc([]string{"curl", "Wget", "Mozilla/5.0"}, func(tool string) bool { return strings.HasPrefix(agent, tool) })
}

// NegotiateInput is the encoding of the body by its Content-Type, JSON if there
// is none; the error is 415.
func NegotiateInput(r *http.Request, protobuf bool) (Media, error) {
	offer := Offer{Protobuf: protobuf}
	header := r.Header.Get("Content-Type")
	if header == "" {
		return JSON, nil
	}
	if kind, _, err := mime.ParseMediaType(header); err == nil {
		if i := slices.Index(mediaTypes, kind); i >= 0 && slices.Contains(offer.media(schema.GroupVersionKind{}), Media(i)) {
			return Media(i), nil
		}
	}
	return JSON, UnsupportedMedia(names(offer, ""))
}

// Acceptable is a first look at the Accept header, before the verb is served:
// it must name a type the endpoint has, or "*/*". Ranges such as application/*
// do not count, which is how kube-apiserver does it.
func Acceptable(r *http.Request, offer Offer, streams bool) error {
	accept := r.Header.Get("Accept")
	if accept == "" {
		return nil
	}
	known := names(offer, "")
	for clause := range strings.SplitSeq(accept, ",") {
		kind, _, _ := strings.Cut(clause, ";")
		if kind = strings.TrimSpace(kind); kind == "*/*" || slices.Contains(known, kind) {
			return nil
		}
	}
	if streams {
		known = append(known, names(offer, streamSuffix)...)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Details: &metav1.StatusDetails{}, Message: "406: Not Acceptable\n\nAvailable representations: " + strings.Join(known, ", ")}}
}

func names(offer Offer, suffix string) []string {
	var out []string
	for _, m := range offer.media(schema.GroupVersionKind{}) {
		if suffix == "" || m != YAML { // YAML does not stream
			out = append(out, m.String()+suffix)
		}
	}
	return out
}

// notAcceptable names protobuf too where there is none, and no stream there, as
// kube-apiserver does.
func notAcceptable(offer Offer, suffix string) error {
	if !offer.Protobuf {
		offer.Protobuf, suffix = true, ""
	}
	return status(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: "+strings.Join(names(offer, suffix), ", "))
}

// UnsupportedMedia is the 415 error for a body none of whose accepted types it is.
func UnsupportedMedia(accepted []string) error {
	return status(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(accepted, ", "))
}

// NotAcceptable is a 406 error with a message of its own.
func NotAcceptable(format string, args ...any) error {
	return status(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, fmt.Sprintf(format, args...))
}

func status(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}
