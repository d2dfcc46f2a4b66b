package codec

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializerjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// MaxBody is how large the body of a request may be, in bytes.
const MaxBody = 3 * 1024 * 1024

// ReadBody reads the whole body; one larger than MaxBody gives 413, one that
// has not come by the request's deadline 504.
func ReadBody(r *http.Request) ([]byte, error) {
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", MaxBody))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
		}
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", MaxBody))
	}
	return body, nil
}

// Input says how a body is to be read.
type Input struct {
	Media Media
	Kind  schema.GroupVersionKind // what the body must be, also where it does not say
	// Validation is Strict, Warn (also if empty) or Ignore: what happens when
	// the body has unknown or duplicate fields.
	Validation string
	Warn       func(text string)
	// Prune is that of a kind without a Go type, see resource.Custom; else nil.
	Prune func(obj resource.Object, stored bool) (dropped []string, err error)
}

// Decode reads body into into, a new object of in.Kind. Errors are 400.
func Decode(body []byte, in Input, into runtime.Object) error {
	obj, kind, err := read(body, in, into)
	if err != nil {
		return err
	}
	if in.Prune != nil && kind.Kind != in.Kind.Kind && kind.GroupVersion() == in.Kind.GroupVersion() {
		return otherType(obj.(resource.Object), *kind, in.Kind)
	}
	return isKind(kind, in.Kind, body, in.Prune != nil)
}

// DecodeVersion is Decode for a body that may also be of the same kind in another version. The result is into, unless
// it is an object of such a version.
func DecodeVersion(body []byte, in Input, also []schema.GroupVersion, into runtime.Object) (runtime.Object, error) {
	obj, kind, err := read(body, in, into)
	if err != nil {
		return nil, err
	}
	if kind.Kind == in.Kind.Kind && slices.Contains(also, kind.GroupVersion()) {
		return obj, nil
	}
	return obj, isKind(kind, in.Kind, body, in.Prune != nil)
}

func read(body []byte, in Input, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	report := in.Validation != metav1.FieldValidationIgnore
	obj, kind, strict, err := in.decode(body, report, into)
	switch {
	case err != nil, len(strict) == 0, !report:
	case in.Validation == metav1.FieldValidationStrict:
		err = runtime.NewStrictDecodingError(strict)
	default:
		WarnStrict(strict, in.Warn)
	}
	if err != nil {
		return nil, nil, decodeError(err, kind, in.Kind, body)
	}
	return obj, kind, nil
}

// decode reads body into into. strict are the fields that are unknown or there
// twice.
func (in Input) decode(body []byte, report bool, into runtime.Object) (obj runtime.Object, kind *schema.GroupVersionKind, strict []error, err error) {
	obj, kind, err = decoders[in.Media][index(report)].Decode(body, &in.Kind, into)
	if lax, ok := runtime.AsStrictDecodingError(err); ok && obj != nil {
		strict, err = lax.Errors(), nil
	}
	custom, ok := into.(resource.Object)
	if err != nil || in.Prune == nil || !ok || kind.GroupKind() != in.Kind.GroupKind() {
		return obj, kind, strict, err
	}
	dropped, err := in.Prune(custom, false)
	for _, path := range dropped {
		strict = append(strict, fmt.Errorf("unknown field %q", path))
	}
	return obj, kind, strict, err
}

// DecodePatched reads the JSON that a patch made into into, a new object of
// in.Kind. strict are the unknown and duplicate fields.
func DecodePatched(body []byte, in Input, into runtime.Object) (strict []error, err error) {
	_, found, strict, err := in.decode(body, true, into)
	if err != nil {
		return nil, err
	}
	switch {
	case in.Prune != nil && *found != in.Kind:
		return nil, otherType(into.(resource.Object), *found, in.Kind)
	case found.Kind != in.Kind.Kind:
		return nil, noConversion(found, in.Kind)
	}
	return strict, isKind(found, in.Kind, body, false)
}

// isKind is the 400 for a body that says it is of another kind.
func isKind(kind *schema.GroupVersionKind, want schema.GroupVersionKind, body []byte, custom bool) error {
	switch {
	case *kind == want:
		return nil
	case custom && kind.GroupVersion() != want.GroupVersion():
	case kind.Kind != want.Kind:
		return decodeError(noConversion(kind, want), kind, want, body)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
		kind.GroupVersion(), want.GroupVersion()))
}

// otherType is the 422 for a custom resource that says it is of another kind or
// version: their schema could be that of any.
func otherType(obj resource.Object, is, want schema.GroupVersionKind) error {
	var errs field.ErrorList
	if is.Kind != want.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), is.Kind, "must be "+want.Kind))
	}
	if is.GroupVersion() != want.GroupVersion() {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), is.GroupVersion().String(), "must be "+want.GroupVersion().String()))
	}
	return apierrors.NewInvalid(is.GroupKind(), obj.GetName(), errs)
}

func noConversion(kind *schema.GroupVersionKind, want schema.GroupVersionKind) error {
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", kind.Version, kind.Kind, goPackage(want.Group), want.Kind)
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// goPackage is the name of the Go package of a group, as messages about
// impossible conversions have it.
func goPackage(group string) string {
	if group == "" {
		return "core"
	}
	name, _, _ := strings.Cut(group, ".")
	return name
}

// decodeError is the 400 for a body that is no object of the wanted kind.
func decodeError(err error, kind *schema.GroupVersionKind, want schema.GroupVersionKind, body []byte) error {
	if kind != nil && kind.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", kind.Kind, kind.Version, want.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(body)))
}

// summary is the beginning of a body for an error: as text if it looks like
// JSON, else in hexadecimal.
func summary(body []byte) string {
	const most = 30
	if len(body) == 0 {
		return "<empty>"
	}
	text, rest := body, ""
	if len(body) > most {
		text, rest = body[:most], " ..."
	}
	if body[0] == '{' {
		return string(text) + rest
	}
	return hex.EncodeToString(text) + rest
}

// WarnStrict makes a warning of each field that is unknown or given twice. The
// YAML parser reports all of its own in one error of several lines.
func WarnStrict(errs []error, warn func(string)) {
	if warn == nil {
		return
	}
	for _, err := range errs {
		text := err.Error()
		lines, isYAML := strings.CutPrefix(text, "error converting YAML to JSON: yaml: unmarshal errors:\n")
		if !isYAML {
			lines, isYAML = strings.CutPrefix(text, "yaml: unmarshal errors:\n")
		}
		if !isYAML {
			warn(text)
			continue
		}
		for line := range strings.SplitSeq(lines, "\n") {
			warn(strings.TrimSpace(line))
		}
	}
}

// DecodeOptions reads DeleteOptions of any group and version, also of one that
// nobody serves: clients write that of the object.
func DecodeOptions(body []byte, m Media, into *metav1.DeleteOptions) error {
	kind := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	obj, _, err := optionsDecoders[m].Decode(body, &kind, nil)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	options, ok := obj.(*metav1.DeleteOptions)
	if !ok {
		return apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
	}
	*into = *options
	return nil
}

// optionsDecoders know DeleteOptions alone.
var optionsDecoders = []runtime.Decoder{
	JSON:     serializerjson.NewSerializerWithOptions(serializerjson.DefaultMetaFactory, optionsScheme, optionsScheme, serializerjson.SerializerOptions{}),
	YAML:     serializerjson.NewSerializerWithOptions(serializerjson.DefaultMetaFactory, optionsScheme, optionsScheme, serializerjson.SerializerOptions{Yaml: true}),
	Protobuf: protobuf.NewSerializer(optionsScheme, optionsScheme),
}

var optionsScheme = newOptionsScheme()

func newOptionsScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddUnversionedTypes(metav1.SchemeGroupVersion, &metav1.DeleteOptions{})
	return s
}
