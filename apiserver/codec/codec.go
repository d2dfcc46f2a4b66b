// Package codec turns requests into objects and objects into answers: JSON,
// YAML and protobuf, negotiated as RFC 9110 and the Kubernetes API conventions
// say, strict decoding, tables and metadata-only views, lists joined from the
// encoded items, and watch frames.
package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializerjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"sigs.k8s.io/yaml"
)

// Media is an encoding.
type Media uint8

// The encodings, in the order the server prefers them.
const (
	JSON Media = iota
	YAML
	Protobuf
)

var mediaTypes = []string{JSON: "application/json", YAML: "application/yaml", Protobuf: "application/vnd.kubernetes.protobuf"}

// String is the media type.
func (m Media) String() string { return mediaTypes[m] }

// Scheme knows every built-in type of the API by group, version and kind: those
// that client-go knows, CustomResourceDefinition, APIService, and what is used of nodes and pods.
var Scheme = newScheme()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(scheme.AddToScheme(s))
	utilruntime.Must(apiextensionsv1.AddToScheme(s))
	utilruntime.Must(apiregistrationv1.AddToScheme(s))
	utilruntime.Must(metricsv1beta1.AddToScheme(s))
	return s
}

// decoders are per media type; the second of each is strict. Protobuf has no
// strictness: unknown fields have no names.
var decoders = [][2]runtime.Decoder{
	JSON:     {jsonDecoder(false, false), jsonDecoder(false, true)},
	YAML:     {jsonDecoder(true, false), jsonDecoder(true, true)},
	Protobuf: {protobuf.NewSerializer(Scheme, Scheme), protobuf.NewSerializer(Scheme, Scheme)},
}

func jsonDecoder(yaml, strict bool) runtime.Decoder {
	return serializerjson.NewSerializerWithOptions(serializerjson.DefaultMetaFactory, Scheme, Scheme,
		serializerjson.SerializerOptions{Yaml: yaml, Strict: strict})
}

// protobufPrefix marks a Kubernetes protobuf message: a runtime.Unknown follows.
var protobufPrefix = []byte("k8s\x00")

// As returns obj as kind. It is obj itself if it says so already; else a copy
// that shares everything below with it, so that shared objects stay unchanged.
func As(obj runtime.Object, kind schema.GroupVersionKind) runtime.Object {
	if obj.GetObjectKind().GroupVersionKind() == kind {
		return obj
	}
	if _, ok := obj.(runtime.Unstructured); ok {
		obj = obj.DeepCopyObject()
	} else {
		shallow := reflect.New(reflect.TypeOf(obj).Elem())
		shallow.Elem().Set(reflect.ValueOf(obj).Elem())
		obj = shallow.Interface().(runtime.Object)
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj
}

// Marshal encodes one whole object, which says of what kind it is.
func Marshal(obj runtime.Object, m Media) ([]byte, error) {
	if m == Protobuf {
		raw, err := marshalRaw(obj)
		if err != nil {
			return nil, err
		}
		return envelope(obj.GetObjectKind().GroupVersionKind(), raw), nil
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	if m == YAML {
		return yaml.JSONToYAML(data)
	}
	return data, nil
}

// marshalRaw encodes the message of an object, without its kind.
func marshalRaw(obj runtime.Object) ([]byte, error) {
	message, ok := obj.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return nil, fmt.Errorf("encode %T: the type has no protobuf form", obj)
	}
	data, err := message.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	return data, nil
}

// HasProtobuf reports whether objects of the type of obj have a protobuf form.
func HasProtobuf(obj runtime.Object) bool {
	_, ok := obj.(interface{ Marshal() ([]byte, error) })
	return ok
}

// pretty indents JSON as the API does for people.
func pretty(data []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// kindPrefix is how the JSON of a typed object begins; without it, but for the
// brace, an object stands in a list.
func kindPrefix(kind schema.GroupVersionKind) string {
	return fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, kind.Kind, kind.GroupVersion().String())
}
