package kernel

import "encoding/binary"

// attributes are netlink attributes one after the other (type, length, value). All
// numbers in them are big-endian but for what packets and registers hold.
type attributes struct{ bytes []byte }

const (
	attributeHeader = 4
	nestedFlag      = 1 << 15
)

// open begins an attribute that holds others; close ends it.
func (a *attributes) open(kind uint16) int {
	at := len(a.bytes)
	a.bytes = binary.NativeEndian.AppendUint16(a.bytes, 0)
	a.bytes = binary.NativeEndian.AppendUint16(a.bytes, kind|nestedFlag)
	return at
}

func (a *attributes) close(at int) {
	binary.NativeEndian.PutUint16(a.bytes[at:], uint16(len(a.bytes)-at))
}

func (a *attributes) nested(kind uint16, fill func(a *attributes)) {
	at := a.open(kind)
	fill(a)
	a.close(at)
}

func (a *attributes) raw(kind uint16, value []byte) {
	a.bytes = binary.NativeEndian.AppendUint16(a.bytes, uint16(attributeHeader+len(value)))
	a.bytes = binary.NativeEndian.AppendUint16(a.bytes, kind)
	a.bytes = append(a.bytes, value...)
	for len(a.bytes)%4 != 0 {
		a.bytes = append(a.bytes, 0)
	}
}

func (a *attributes) number(kind uint16, value uint32) {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], value)
	a.raw(kind, raw[:])
}

func (a *attributes) long(kind uint16, value uint64) {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], value)
	a.raw(kind, raw[:])
}

func (a *attributes) text(kind uint16, value string) { a.raw(kind, append([]byte(value), 0)) }

// each calls f with every attribute of a message; it stops at what is no attribute.
func each(bytes []byte, f func(kind uint16, value []byte)) {
	for len(bytes) >= attributeHeader {
		length := int(binary.NativeEndian.Uint16(bytes))
		if length < attributeHeader || length > len(bytes) {
			return
		}
		f(binary.NativeEndian.Uint16(bytes[2:])&^nestedFlag, bytes[attributeHeader:length])
		bytes = bytes[min(len(bytes), (length+3)&^3):]
	}
}

// find is the value of an attribute, nil if there is none.
func find(bytes []byte, want uint16) (found []byte) {
	each(bytes, func(kind uint16, value []byte) {
		if kind == want {
			found = value
		}
	})
	return found
}

// text is a string without the zero at its end.
func text(value []byte) string {
	if n := len(value); n > 0 && value[n-1] == 0 {
		value = value[:n-1]
	}
	return string(value)
}

// number is 0 for what is not one.
func number(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}
