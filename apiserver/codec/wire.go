package codec

import (
	"encoding/binary"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The protobuf messages around objects, written by hand so that the encoded
// object in the middle is copied and not made again. Field numbers are those of
// runtime.Unknown, metav1.WatchEvent and the list types (k8s.io/apimachinery,
// generated.proto); all fields used have length-delimited values.
const (
	unknownTypeMeta        = 1
	unknownRaw             = 2
	unknownContentEncoding = 3
	unknownContentType     = 4

	typeMetaAPIVersion = 1
	typeMetaKind       = 2

	listMetadata = 1
	listItem     = 2

	eventType   = 1
	eventObject = 2

	extensionRaw = 1
)

// appendHead appends the tag and length of a length-delimited field.
func appendHead(b []byte, field, length int) []byte {
	b = binary.AppendUvarint(b, uint64(field)<<3|2)
	return binary.AppendUvarint(b, uint64(length))
}

func appendField[T string | []byte](b []byte, field int, value T) []byte {
	return append(appendHead(b, field, len(value)), value...)
}

// fieldSize is the size of a field with its head; field numbers are small.
func fieldSize(length int) int {
	n := 2
	for l := length; l >= 0x80; l >>= 7 {
		n++
	}
	return n + length
}

// envelopeHead is what stands before the message of an object of a kind with
// so many bytes; envelopeTail follows it.
func envelopeHead(kind schema.GroupVersionKind, length int) []byte {
	apiVersion := kind.GroupVersion().String()
	typeMeta := make([]byte, 0, len(apiVersion)+len(kind.Kind)+4)
	typeMeta = appendField(typeMeta, typeMetaAPIVersion, apiVersion)
	typeMeta = appendField(typeMeta, typeMetaKind, kind.Kind)
	b := make([]byte, 0, len(protobufPrefix)+len(typeMeta)+12)
	b = append(b, protobufPrefix...)
	b = appendField(b, unknownTypeMeta, typeMeta)
	return appendHead(b, unknownRaw, length)
}

var envelopeTail = []byte{unknownContentEncoding<<3 | 2, 0, unknownContentType<<3 | 2, 0}

func envelope(kind schema.GroupVersionKind, raw []byte) []byte {
	head := envelopeHead(kind, len(raw))
	b := make([]byte, 0, len(head)+len(raw)+len(envelopeTail))
	return append(append(append(b, head...), raw...), envelopeTail...)
}
