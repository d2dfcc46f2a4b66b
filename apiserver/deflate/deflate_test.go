package deflate

import (
	"bytes"
	"sync"
	"testing"
)

func TestPack(t *testing.T) {
	var packers sync.WaitGroup
	for n := range 8 {
		packers.Go(func() {
			plain := bytes.Repeat([]byte{byte(n), 'x'}, 1000*n)
			packed, err := Pack(plain)
			if err != nil {
				t.Error(err)
			}
			if n > 0 && len(packed) > len(plain)/10 {
				t.Errorf("%d bytes are packed in %d", len(plain), len(packed))
			}
			if back, err := Unpack(packed); err != nil || !bytes.Equal(back, plain) {
				t.Errorf("unpacked %d bytes, %v; want the %d that were packed", len(back), err, len(plain))
			}
		})
	}
	packers.Wait()
	if _, err := Unpack([]byte("no such thing")); err == nil {
		t.Error("unpacked what was not packed")
	}
}

func BenchmarkUnpack(b *testing.B) {
	packed, err := Pack(bytes.Repeat([]byte("an object of a custom kind "), 50))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unpack(packed); err != nil {
			b.Fatal(err)
		}
	}
}
