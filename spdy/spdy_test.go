package spdy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moby/spdystream/spdy"
)

// sent is what a side sends with some frames.
func sent(t testing.TB, frames ...spdy.Frame) []byte {
	t.Helper()
	var out bytes.Buffer
	framer, err := spdy.NewFramer(&out, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := framer.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func begin(id spdy.StreamId, headers http.Header) *spdy.SynStreamFrame {
	return &spdy.SynStreamFrame{StreamId: id, Headers: headers}
}

func data(id spdy.StreamId, flags spdy.DataFlags, text string) *spdy.DataFrame {
	return &spdy.DataFrame{StreamId: id, Flags: flags, Data: []byte(text)}
}

// carried is what the streams of a connection carry, whether they ended, and the longest frame of data.
func carried(t testing.TB, raw []byte) (streams map[spdy.StreamId]string, longest int) {
	t.Helper()
	framer, err := spdy.NewFramer(io.Discard, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	streams = map[spdy.StreamId]string{}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return streams, longest
		}
		switch f := frame.(type) {
		case *spdy.DataFrame:
			streams[f.StreamId] += string(f.Data)
			if f.Flags&spdy.DataFlagFin != 0 {
				streams[f.StreamId] += " END"
			}
			longest = max(longest, len(f.Data))
		case *spdy.SynStreamFrame:
			streams[f.StreamId] += f.Headers.Get("streamtype") + ":"
		}
	}
}

func TestFramesOfDataAreCut(t *testing.T) {
	long := strings.Repeat("0123456789", 100_000)
	raw := sent(t, begin(1, http.Header{"Streamtype": {"stdin"}}), data(1, 0, "a"), data(1, spdy.DataFlagFin, long), begin(3, nil),
		data(3, 0, ""), data(3, spdy.DataFlagFin, ""), &spdy.PingFrame{Id: 1})
	for name, source := range map[string]io.Reader{"at once": bytes.NewReader(raw), "byte by byte": iotest.OneByteReader(bytes.NewReader(raw))} {
		t.Run(name, func(t *testing.T) {
			got, err := io.ReadAll(new(Guard).FromClient(source))
			if err != nil {
				t.Fatal(err)
			}
			streams, longest := carried(t, got)
			if want := "stdin:a" + long + " END"; streams[1] != want {
				t.Errorf("stream 1: got %d bytes, want %d", len(streams[1]), len(want))
			}
			if streams[3] != ": END" {
				t.Errorf("stream 3: got %q, want %q", streams[3], ": END")
			}
			if longest != maxData {
				t.Errorf("longest frame: got %d, want %d", longest, maxData)
			}
		})
	}
}

func TestWhatMayNotPass(t *testing.T) {
	var many []spdy.Frame
	for i := range maxStreams + 1 {
		many = append(many, begin(spdy.StreamId(2*i+1), nil))
	}
	tooMany := http.Header{}
	for i := range maxHeaders + 1 {
		tooMany.Set("h"+strings.Repeat("x", i), "")
	}
	bomb := sent(t, begin(1, http.Header{"Port": {strings.Repeat("0", maxHeaderField+1)}}))
	endless := binary.BigEndian.AppendUint32([]byte{0x80, 3, 0, 8}, maxControl+1)
	for _, c := range []struct {
		name string
		raw  []byte
	}{
		{"a header that unpacks to too much", bomb},
		{"too many headers", sent(t, begin(1, tooMany))},
		{"a long frame of headers", endless},
		{"too many streams", sent(t, many...)},
		{"more than a frame says", []byte{0x80, 3, 0, 6, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 1}},
		{"an unknown frame", []byte{0x80, 3, 0, 99, 0, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := io.Copy(io.Discard, new(Guard).FromClient(bytes.NewReader(c.raw))); !errors.Is(err, ErrLimit) {
				t.Errorf("got %v, want %v", err, ErrLimit)
			}
		})
	}
	t.Run("a stream of the server", func(t *testing.T) {
		if _, err := io.Copy(io.Discard, new(Guard).FromServer(bytes.NewReader(sent(t, begin(2, nil))))); !errors.Is(err, ErrLimit) {
			t.Errorf("got %v, want %v", err, ErrLimit)
		}
	})
	t.Run("an end within a frame", func(t *testing.T) {
		for _, raw := range [][]byte{sent(t, data(1, 0, "text")), sent(t, begin(1, nil))} {
			if _, err := io.Copy(io.Discard, new(Guard).FromClient(bytes.NewReader(raw[:len(raw)-1]))); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
			}
		}
	})
}

// Streams that have ended do not count: a port may be forwarded for days.
func TestStreamsThatEndedDoNotCount(t *testing.T) {
	for name, end := range map[string]func(client, server func(...spdy.Frame), id spdy.StreamId){
		"by both sides": func(client, server func(...spdy.Frame), id spdy.StreamId) {
			client(data(id, spdy.DataFlagFin, ""))
			server(&spdy.SynReplyFrame{StreamId: id, CFHeader: spdy.ControlFrameHeader{Flags: spdy.ControlFlagFin}})
		},
		"reset by the client": func(client, _ func(...spdy.Frame), id spdy.StreamId) {
			client(&spdy.RstStreamFrame{StreamId: id, Status: spdy.Cancel})
		},
		"reset by the server": func(_, server func(...spdy.Frame), id spdy.StreamId) {
			server(&spdy.RstStreamFrame{StreamId: id, Status: spdy.Cancel})
		},
	} {
		t.Run(name, func(t *testing.T) {
			guard := new(Guard)
			client := sender(t, guard.FromClient)
			server := sender(t, guard.FromServer)
			for i := range 3 * maxStreams {
				id := spdy.StreamId(2*i + 1)
				client(begin(id, nil))
				end(client, server, id)
			}
		})
	}
}

// sender sends frames past a guard, which must let them.
func sender(t *testing.T, guarded func(io.Reader) io.Reader) func(...spdy.Frame) {
	var wire, none bytes.Buffer
	framer, err := spdy.NewFramer(&wire, &none)
	if err != nil {
		t.Fatal(err)
	}
	out := guarded(&wire)
	buffer := make([]byte, 4096)
	return func(frames ...spdy.Frame) {
		t.Helper()
		for _, f := range frames {
			if err := framer.WriteFrame(f); err != nil {
				t.Fatal(err)
			}
			want := wire.Len()
			for got := 0; got < want; {
				n, err := out.Read(buffer)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		}
	}
}

// FuzzGuard sees that what passes is what was sent, cut into short frames, up to where it was broken off; and reading
// it in pieces gives the same.
func FuzzGuard(f *testing.F) {
	f.Add(sent(f, begin(1, http.Header{"Streamtype": {"stdin"}}), data(1, spdy.DataFlagFin, "text"), &spdy.PingFrame{Id: 1}))
	f.Add(sent(f, data(1, 1, strings.Repeat("x", maxData+1)), &spdy.RstStreamFrame{StreamId: 1, Status: 1}))
	f.Add([]byte{0x80, 3, 0, 1, 1, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0xbb})
	f.Fuzz(func(t *testing.T, raw []byte) {
		passed, err := io.ReadAll(new(Guard).FromClient(bytes.NewReader(raw)))
		slowly, slowErr := io.ReadAll(iotest.HalfReader(new(Guard).FromClient(iotest.OneByteReader(bytes.NewReader(raw)))))
		if !bytes.Equal(passed, slowly) || (err == nil) != (slowErr == nil) {
			t.Fatalf("at once %d bytes, %v; in pieces %d bytes, %v", len(passed), err, len(slowly), slowErr)
		}
		got, longest := carried(t, passed)
		if longest > maxData {
			t.Errorf("a frame of %d bytes passed", longest)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return // within a frame, whose beginning has passed
		}
		want, _ := carried(t, raw)
		for id, text := range got {
			if !strings.HasPrefix(want[id], strings.TrimSuffix(text, " END")) {
				t.Errorf("stream %d: got %q, want the beginning of %q", id, text, want[id])
			}
		}
		if err == nil && len(got) != len(want) {
			t.Errorf("%d streams passed, want %d", len(got), len(want))
		}
	})
}
