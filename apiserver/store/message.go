package store

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"sync/atomic"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// The bytes that are stored of an object are its protobuf message, but for the resourceVersion, which is empty there: the revision stands for it. So a
// message can be put together of two pieces whenever somebody asks for it, and nothing of it is kept.

// Numbers of fields (k8s.io/apimachinery, generated.proto). Those of ObjectMeta before resourceVersion are strings.
const (
	unknownRaw      = 2 // of runtime.Unknown
	objectMeta      = 1 // of every kind
	resourceVersion = 6 // of ObjectMeta
)

// likeness says whether what is stored of an object is what it is encoded as, which defaults of a later version can change. It is found
// out when somebody asks first.
type likeness struct{ known atomic.Int32 }

const (
	alike  = 1
	unlike = 2
)

// Message is the protobuf message of the object, which encode makes as well: what it appends to buffer, and rest after that. Neither is
// kept, and rest must not be changed. ok is false if what is stored is something else; then Encoded makes a message, and keeps it.
func (i *Item) Message(buffer []byte, encode func(resource.Object) ([]byte, error)) (all, rest []byte, ok bool) {
	if i.kept == nil || i.kept.packed || i.like.known.Load() == unlike {
		return buffer, nil, false
	}
	all, rest, ok = i.kept.message(buffer)
	switch {
	case !ok:
		i.like.known.Store(unlike)
	case i.like.known.Load() == alike:
		return all, rest, true
	default:
		ok = i.compare(all[len(buffer):], rest, encode)
	}
	if !ok {
		return buffer, nil, false
	}
	return all, rest, true
}

// compare finds out whether head and rest are what encode makes.
func (i *Item) compare(head, rest []byte, encode func(resource.Object) ([]byte, error)) bool {
	made, err := encode(i.Object())
	if err != nil {
		return false // it is Encoded that tells of it
	}
	tail, found := bytes.CutPrefix(made, head)
	if !found || !bytes.Equal(tail, rest) {
		i.like.known.Store(unlike)
		return false
	}
	i.like.known.Store(alike)
	return true
}

// message puts the revision into what is stored: the metadata as far as that is appended to buffer, and the rest follows.
func (k *kept) message(buffer []byte) (all, rest []byte, ok bool) {
	message, stored := bytes.CutPrefix(k.bytes, envelope)
	raw, found := fieldOf(message, unknownRaw)
	field, metadata, after, ok := cutField(raw)
	if !stored || !found || !ok || field != objectMeta {
		return buffer, nil, false
	}
	before := metadata
	for len(before) > 0 && before[0]>>3 < resourceVersion {
		if _, _, before, ok = cutField(before); !ok {
			return buffer, nil, false
		}
	}
	start := metadata[:len(metadata)-len(before)]
	rest, empty := bytes.CutPrefix(before, []byte{resourceVersion<<3 | 2, 0})
	if !empty {
		return buffer, nil, false // one is stored, which is not the revision
	}
	var digits [20]byte
	version := strconv.AppendInt(digits[:0], k.revision, 10)
	all = binary.AppendUvarint(append(buffer, objectMeta<<3|2), uint64(len(metadata)+len(version)))
	all = append(append(all, start...), resourceVersion<<3|2, byte(len(version)))
	return append(all, version...), raw[len(raw)-len(after)-len(rest):], true
}

// fieldOf is the first field of a number in a message of fields with lengths.
func fieldOf(message []byte, number uint64) (value []byte, ok bool) {
	for len(message) > 0 {
		field, value, rest, ok := cutField(message)
		if !ok {
			return nil, false
		}
		if field == number {
			return value, true
		}
		message = rest
	}
	return nil, false
}

// cutField cuts the first field of a message, which has a length.
func cutField(message []byte) (field uint64, value, rest []byte, ok bool) {
	tag, n := binary.Uvarint(message)
	if n <= 0 || tag&7 != 2 {
		return 0, nil, nil, false
	}
	length, m := binary.Uvarint(message[n:])
	if m <= 0 || length > uint64(len(message)-n-m) {
		return 0, nil, nil, false
	}
	end := n + m + int(length)
	return tag >> 3, message[n+m : end], message[end:], true
}
