package codec

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// messenger is an Item whose protobuf message is there, more or less, see store.Item.
type messenger interface {
	Message(buffer []byte, encode func(resource.Object) ([]byte, error)) (all, rest []byte, ok bool)
}

// messages makes protobuf messages of items of one kind.
type messages struct {
	resource *resource.Resource
	as       schema.GroupVersionKind
	encode   func(resource.Object) ([]byte, error) // nil if they are not what is stored
}

func newMessages(r *resource.Resource, as schema.GroupVersionKind) messages {
	m := messages{resource: r, as: as}
	if as.Empty() && r == r.Stored && !r.Converts() {
		m.encode = func(obj resource.Object) ([]byte, error) { return encodeObject(obj, r, Protobuf, as) }
	}
	return m
}

// append makes the message of an item: what it appends to buffer, and rest after that.
func (m messages) append(buffer []byte, i Item) (all, rest []byte, err error) {
	if there, ok := i.(messenger); ok && m.encode != nil {
		if all, rest, ok := there.Message(buffer, m.encode); ok {
			return all, rest, nil
		}
	}
	rest, err = encodeItem(i, m.resource, Protobuf, m.as)
	return buffer, rest, err
}

// Heads of items are made side by side in pieces of memory of this size.
const (
	headsSize = 16 << 10
	headMost  = 256 // for most
)

// protobufList joins items to the message of a list in its envelope.
func protobufList[I Item](kind schema.GroupVersionKind, listMeta metav1.ListMeta, items []I, m messages) (Body, error) {
	metadata, err := listMeta.Marshal()
	if err != nil {
		return nil, err
	}
	size := fieldSize(len(metadata))
	body := make(Body, 1, 2*len(items)+2)
	var heads []byte
	for n, i := range items {
		if cap(heads)-len(heads) < headMost {
			heads = make([]byte, 0, min(headsSize, headMost*(len(items)-n)))
		}
		var item [6]byte // the longest tag and length
		start := len(heads) + len(item)
		all, rest, err := m.append(append(heads, item[:]...), i)
		if err != nil {
			return nil, err
		}
		length := len(all) - start + len(rest)
		tag := appendHead(item[:0], listItem, length)
		copy(all[start-len(tag):], tag)
		body = append(body, all[start-len(tag):len(all):len(all)], rest)
		size += fieldSize(length)
		heads = all
	}
	body[0] = appendField(envelopeHead(kind, size), listMetadata, metadata)
	return append(body, envelopeTail), nil
}
