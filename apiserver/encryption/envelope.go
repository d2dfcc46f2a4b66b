package encryption

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// An envelope is an encrypted value with the source of its key: a message of
// protobuf with these fields.
const (
	fieldData        protowire.Number = 1
	fieldKeyID       protowire.Number = 2
	fieldSource      protowire.Number = 3
	fieldAnnotations protowire.Number = 4 // a map of strings to bytes
	fieldKind        protowire.Number = 5
)

// appendHead appends the envelope without its data, which must follow: see
// appendData. Fields may come in any order.
func (s *source) appendHead(out []byte) []byte {
	out = protowire.AppendString(protowire.AppendTag(out, fieldKeyID, protowire.BytesType), s.keyID)
	out = protowire.AppendBytes(protowire.AppendTag(out, fieldSource, protowire.BytesType), s.encrypted)
	for _, name := range slices.Sorted(maps.Keys(s.annotations)) {
		pair := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		pair = protowire.AppendBytes(protowire.AppendTag(pair, 2, protowire.BytesType), s.annotations[name])
		out = protowire.AppendBytes(protowire.AppendTag(out, fieldAnnotations, protowire.BytesType), pair)
	}
	if s.kind != 0 {
		out = protowire.AppendVarint(protowire.AppendTag(out, fieldKind, protowire.VarintType), uint64(s.kind))
	}
	return out
}

// appendData appends the place of n bytes of data, which follow.
func appendData(out []byte, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(out, fieldData, protowire.BytesType), uint64(n))
}

// openEnvelope is the opposite. data is part of stored.
func openEnvelope(stored []byte) (s *source, data []byte, err error) {
	s = new(source)
	err = fields(stored, func(number protowire.Number, value []byte, n uint64) error {
		switch number {
		case fieldData:
			data = value
		case fieldKeyID:
			s.keyID = string(value)
		case fieldSource:
			s.encrypted = value
		case fieldKind:
			s.kind = sourceKind(n)
		case fieldAnnotations:
			return s.annotate(value)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if len(data) == 0 {
		return nil, nil, errors.New("encrypted data is empty")
	}
	if err := s.validate(); err != nil {
		return nil, nil, err
	}
	return s, data, nil
}

// annotate adds an entry of the map of annotations.
func (s *source) annotate(pair []byte) error {
	var name string
	var content []byte
	err := fields(pair, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			name = string(value)
		case 2:
			content = value
		}
		return nil
	})
	if s.annotations == nil {
		s.annotations = make(map[string][]byte)
	}
	s.annotations[name] = content
	return err
}

// fields calls f with each field of a message: its bytes, or its number if it
// is one.
func fields(message []byte, f func(number protowire.Number, value []byte, n uint64) error) error {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		var value []byte
		var n uint64
		switch kind {
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			n, size = protowire.ConsumeVarint(message)
		default:
			size = protowire.ConsumeFieldValue(number, kind, message)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		if err := f(number, value, n); err != nil {
			return err
		}
	}
	return nil
}

func validateAnnotations(annotations map[string][]byte) error {
	var problems []error
	size := 0
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if list := validation.IsFullyQualifiedDomainName(field.NewPath("annotations"), name); len(list) > 0 {
			problems = append(problems, list.ToAggregate())
		}
		size += len(name) + len(annotations[name])
	}
	if size > maxAnnotations {
		problems = append(problems, fmt.Errorf("total size of annotations is %d, which exceeds the max size of %d", size, maxAnnotations))
	}
	return joined(problems)
}

// sum tells sources apart: two of equal sums have the same secret.
func (s *source) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	part := func(b []byte) {
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) // it never fails
		_, _ = h.Write(b)
	}
	part([]byte{byte(s.kind)})
	part(s.encrypted)
	part([]byte(s.keyID))
	for _, name := range slices.Sorted(maps.Keys(s.annotations)) {
		part([]byte(name))
		part(s.annotations[name])
	}
	h.Sum(sum[:0])
	return sum
}
