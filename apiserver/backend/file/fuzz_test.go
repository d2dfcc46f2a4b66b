package file

import (
	"bytes"
	"testing"
)

// FuzzRecord reads what a damaged file may have as a record. What is read can be written, and reads the same again.
func FuzzRecord(f *testing.F) {
	f.Add(record{key: "/registry/configmaps/default/c", value: []byte("v")}.encode())
	f.Add(record{deleted: true, key: "/k"}.encode())
	f.Add([]byte{0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		if err != nil || again.deleted != r.deleted || again.key != r.key || !bytes.Equal(again.value, r.value) || !again.end.Equal(r.end) {
			t.Errorf("%q is %+v, and then %+v, %v", data, r, again, err)
		}
	})
}
