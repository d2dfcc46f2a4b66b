package codec

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Framer encodes watch events for one kind of client. JSON frames end with a
// newline; protobuf frames begin with their length in four bytes, big-endian.
type Framer struct {
	Output
	Resource *resource.Resource
	Table    TableOptions
	headed   bool
	forms    map[watch.EventType]any // that were asked for
}

// Shared reports whether frames depend on the event alone, so that watchers
// can share them; tables hold ages and are made per watcher.
func (f *Framer) Shared() bool { return f.As.Kind != "Table" }

// Form names the frame of an event of a type.
func (f *Framer) Form(t watch.EventType) any {
	if known := f.forms[t]; known != nil {
		return known
	}
	if f.forms == nil {
		f.forms = make(map[watch.EventType]any)
	}
	f.forms[t] = form{resource: f.Resource, media: f.Media, as: f.As, event: string(t)}
	return f.forms[t]
}

// Item is the frame of an event about an item.
func (f *Framer) Item(t watch.EventType, i Item) ([]byte, error) {
	if f.As.Kind == "Table" {
		obj, err := decodedItem(i)
		if err != nil {
			return nil, err
		}
		return f.Object(t, obj)
	}
	if f.Media == Protobuf {
		head, rest, err := newMessages(f.Resource, f.As).append(nil, i)
		if err != nil {
			return nil, err
		}
		return protobufFrame(t, objectKind(f.Resource, f.As), head, rest), nil
	}
	data, err := encodeItem(i, f.Resource, f.Media, f.As)
	if err != nil {
		return nil, err
	}
	return f.frame(t, objectKind(f.Resource, f.As), data)
}

// Object is the frame of an event about an object of the stored version that
// no one else sees: one that left a selector, or a bookmark.
func (f *Framer) Object(t watch.EventType, stored resource.Object) ([]byte, error) {
	if f.As.Kind == "Table" {
		table, err := newTable(f.Resource, []resource.Object{stored}, metav1.ListMeta{ResourceVersion: stored.GetResourceVersion()}, f.As.GroupVersion(),
			TableOptions{NoHeaders: f.Table.NoHeaders || f.headed, Include: f.Table.Include})
		if err != nil {
			return nil, err
		}
		f.headed = true
		return f.whole(t, table)
	}
	data, err := encodeObject(stored, f.Resource, f.Media, f.As)
	if err != nil {
		return nil, err
	}
	return f.frame(t, objectKind(f.Resource, f.As), data)
}

// Bookmark is the frame that says all events up to a revision were sent, or,
// with initial, that the objects that existed before the watch were.
func (f *Framer) Bookmark(revision int64, initial bool) ([]byte, error) {
	return f.Object(watch.Bookmark, f.Progress(revision, initial))
}

// Progress is the object of a bookmark.
func (f *Framer) Progress(revision int64, initial bool) resource.Object {
	of := f.Resource.Stored
	if f.Resource.Custom != nil {
		of = f.Resource // what is of the version already is not converted: no webhook has a say in it
	}
	obj := of.New()
	obj.GetObjectKind().SetGroupVersionKind(of.GVK())
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	if initial {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

// Error is the frame of an ERROR event, after which a watch ends.
func (f *Framer) Error(status *metav1.Status) ([]byte, error) {
	return f.whole(watch.Error, As(status, schema.GroupVersionKind{Version: "v1", Kind: "Status"}))
}

// whole frames an object that says of what kind it is.
func (f *Framer) whole(t watch.EventType, obj runtime.Object) ([]byte, error) {
	kind := obj.GetObjectKind().GroupVersionKind()
	if f.Media == Protobuf {
		data, err := marshalRaw(obj)
		if err != nil {
			return nil, err
		}
		return f.frame(t, kind, data)
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	return f.frame(t, kind, data)
}

// frame puts data, JSON or a protobuf message of a kind, into an event.
func (f *Framer) frame(t watch.EventType, kind schema.GroupVersionKind, data []byte) ([]byte, error) {
	if f.Media == Protobuf {
		return protobufFrame(t, kind, nil, data), nil
	}
	return jsonFrame(t, data), nil
}

func jsonFrame(t watch.EventType, data []byte) []byte {
	b := make([]byte, 0, len(data)+len(t)+24)
	b = append(b, `{"type":"`...)
	b = append(b, t...)
	b = append(b, `","object":`...)
	b = append(b, data...)
	return append(b, '}', '\n')
}

// protobufFrame frames a message in two pieces.
func protobufFrame(t watch.EventType, kind schema.GroupVersionKind, head, rest []byte) []byte {
	envelope := envelopeHead(kind, len(head)+len(rest))
	object := len(envelope) + len(head) + len(rest) + len(envelopeTail)
	size := fieldSize(len(t)) + fieldSize(fieldSize(object))
	b := make([]byte, 0, 4+size)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = appendField(b, eventType, string(t))
	b = appendHead(b, eventObject, fieldSize(object))
	b = appendHead(b, extensionRaw, object)
	b = append(append(append(b, envelope...), head...), rest...)
	return append(b, envelopeTail...)
}
