package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// magic begins every object in protobuf that is not part of another.
const magic = "k8s\x00"

// Numbers of the fields that lead to a resourceVersion, as generated.proto of the API has them.
const (
	rawOfUnknown      = 2 // runtime.Unknown: raw
	metadataOfObject  = 1 // any kind: metadata
	versionOfMetadata = 6 // ObjectMeta: resourceVersion
	versionOfList     = 2 // ListMeta: resourceVersion
	typeOfEvent       = 1 // WatchEvent: type
	objectOfEvent     = 2 // WatchEvent: object
	rawOfExtension    = 1 // RawExtension: raw
)

var errMalformed = errors.New("malformed protobuf")

// field finds a field of bytes in a message.
func field(message []byte, number protowire.Number) ([]byte, error) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil, errMalformed
		}
		message = message[size:]
		if n == number && kind == protowire.BytesType {
			value, size := protowire.ConsumeBytes(message)
			if size < 0 {
				return nil, errMalformed
			}
			return value, nil
		}
		if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
			return nil, errMalformed
		}
		message = message[size:]
	}
	return nil, fmt.Errorf("field %d is missing", number)
}

// path finds a field of a field of …
func path(message []byte, numbers ...protowire.Number) (value []byte, err error) {
	value = message
	for _, n := range numbers {
		if value, err = field(value, n); err != nil {
			return nil, err
		}
	}
	return value, nil
}

// Revision reads the resourceVersion of an object.
func Revision(object []byte) (int64, error) { return revision(object, versionOfMetadata) }

// RevisionOfList reads the resourceVersion of a list.
func RevisionOfList(list []byte) (int64, error) { return revision(list, versionOfList) }

func revision(object []byte, version protowire.Number) (int64, error) {
	if len(object) < len(magic) || string(object[:len(magic)]) != magic {
		return 0, fmt.Errorf("no protobuf: %.40q", object)
	}
	text, err := path(object[len(magic):], rawOfUnknown, metadataOfObject, version)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(text), 10, 64)
}

// Event is an event of a watch. Object is good until the splitter is given more.
type Event struct {
	Type   string // ADDED, MODIFIED, DELETED, BOOKMARK or ERROR
	Object []byte
}

// Splitter makes events of the pieces that a watch comes in.
type Splitter struct{ rest []byte }

// Add takes a piece and hands the events that are complete to each.
func (s *Splitter) Add(piece []byte, each func(Event) error) error {
	data := piece
	if len(s.rest) > 0 {
		s.rest = append(s.rest, piece...)
		data = s.rest
	}
	for len(data) >= 4 {
		size := int(binary.BigEndian.Uint32(data))
		if len(data) < 4+size {
			break
		}
		e, err := event(data[4 : 4+size])
		if err == nil {
			err = each(e)
		}
		if err != nil {
			return err
		}
		data = data[4+size:]
	}
	s.rest = append(s.rest[:0], data...)
	return nil
}

func event(frame []byte) (Event, error) {
	kind, err := field(frame, typeOfEvent)
	if err != nil {
		return Event{}, err
	}
	object, err := path(frame, objectOfEvent, rawOfExtension)
	return Event{string(kind), object}, err
}
