// Package spdy holds the two sides of a SPDY/3.1 connection to limits, so that neither can fill the memory
// of the other, nor of a program between them.
//
// SPDY lets a frame of data have 16 MiB, a block of headers unpack to a thousand times its size, and a side
// open as many streams as it likes. Programs that speak it queue whole frames. A Guard therefore cuts long
// frames of data into short ones, which changes nothing of what a stream carries, and breaks a connection
// off whose headers or streams go beyond what any session of Kubernetes needs.
package spdy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/spdystream/spdy"
)

// The limits of a connection.
const (
	maxData        = 64 << 10 // bytes of a frame of data that is passed on
	maxControl     = 16 << 10 // bytes of any other frame, packed
	maxHeaders     = 32       // headers of a stream
	maxHeaderField = 1 << 10  // bytes of a header's name, and of its value
	maxStreams     = 4096     // streams that are open at once; a forwarded connection takes two
)

// ErrLimit is why a connection was broken off: the other side sent what a Guard does not let pass.
var ErrLimit = errors.New("spdy: beyond the limits of a session")

// Guard watches one connection. Its two readers may be used at once; either may be left out by who is an
// end of the connection.
type Guard struct {
	mu   sync.Mutex
	open map[spdy.StreamId]sides // streams of the client; nil when nobody watches the client
}

// sides are those that have sent their last on a stream.
type sides uint8

const (
	client sides = 1 << iota
	server
	both = client | server
)

// FromClient returns a reader of what the client sends with r, as far as it is within limits.
func (g *Guard) FromClient(r io.Reader) io.Reader {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(map[spdy.StreamId]sides)
	return newReader(g, client, r)
}

// FromServer returns a reader of what the server sends with r, as far as it is within limits. A server that
// opens streams is not: none does in Kubernetes.
func (g *Guard) FromServer(r io.Reader) io.Reader { return newReader(g, server, r) }

// note takes down what a frame says about its stream.
func (g *Guard) note(from sides, frame spdy.Frame) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch f := frame.(type) {
	case *spdy.SynStreamFrame:
		if from == server || len(g.open) >= maxStreams {
			return fmt.Errorf("%w: too many streams", ErrLimit)
		}
		g.open[f.StreamId] = 0
		g.finish(from, f.StreamId, f.CFHeader.Flags&spdy.ControlFlagFin != 0)
	case *spdy.SynReplyFrame:
		g.finish(from, f.StreamId, f.CFHeader.Flags&spdy.ControlFlagFin != 0)
	case *spdy.HeadersFrame:
		g.finish(from, f.StreamId, f.CFHeader.Flags&spdy.ControlFlagFin != 0)
	case *spdy.RstStreamFrame:
		delete(g.open, f.StreamId)
	}
	return nil
}

func (g *Guard) finish(from sides, id spdy.StreamId, last bool) {
	ended, known := g.open[id]
	if !known || !last {
		return
	}
	if ended |= from; ended == both {
		delete(g.open, id)
		return
	}
	g.open[id] = ended
}

// headLength is how long the beginning of every frame is: its kind or stream, its flags and its length.
const headLength = 8

// reader passes on what one side sends.
type reader struct {
	guard  *Guard
	from   sides
	source *bufio.Reader

	control bytes.Buffer // the frame that is being checked
	framer  *spdy.Framer // reads control, and knows the state of the headers' compression

	out    []byte // what is to be handed out before anything else
	piece  int    // bytes of source to be handed out after that
	rest   int    // bytes of the frame of data after the piece
	stream spdy.StreamId
	flags  byte
	err    error
}

func newReader(g *Guard, from sides, source io.Reader) *reader {
	r := &reader{guard: g, from: from, source: bufio.NewReaderSize(source, 32<<10)}
	framer, err := spdy.NewFramerWithOptions(io.Discard, &r.control,
		spdy.WithMaxControlFramePayloadSize(maxControl), spdy.WithMaxHeaderCount(maxHeaders), spdy.WithMaxHeaderFieldSize(maxHeaderField))
	r.framer, r.err = framer, err
	return r
}

// Read hands out as much as there is without waiting for more.
func (r *reader) Read(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if done > 0 && r.wouldWait() {
			return done, nil
		}
		n, err := r.step(p[done:])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// wouldWait reports whether the next step may have to wait for the other side.
func (r *reader) wouldWait() bool {
	switch {
	case len(r.out) > 0 || r.piece == 0 && r.rest > 0:
		return false
	case r.piece > 0:
		return r.source.Buffered() == 0
	}
	buffered := r.source.Buffered()
	if buffered < headLength {
		return true
	}
	head, _ := r.source.Peek(headLength)
	return isControl(head) && buffered < headLength+length(head)
}

// step hands out something, or gets something to hand out.
func (r *reader) step(p []byte) (int, error) {
	switch {
	case len(r.out) > 0:
		n := copy(p, r.out)
		r.out = r.out[n:]
		return n, nil
	case r.piece > 0:
		n, err := r.source.Read(p[:min(len(p), r.piece)])
		r.piece -= n
		if n > 0 {
			return n, nil // an error comes again with the next read
		}
		return 0, unexpected(err)
	case r.err != nil:
		return 0, r.err
	case r.rest > 0:
		r.cut()
	default:
		r.err = r.next()
	}
	return 0, nil
}

// next begins with the next frame.
func (r *reader) next() error {
	head := make([]byte, headLength)
	if _, err := io.ReadFull(r.source, head); err != nil {
		return err // io.EOF: the connection ended between two frames
	}
	if isControl(head) {
		return r.check(head)
	}
	r.stream, r.flags, r.rest = spdy.StreamId(binary.BigEndian.Uint32(head)), head[4], length(head)
	r.cut()
	return nil
}

// cut makes the next piece of a frame of data. The last has the frame's flags.
func (r *reader) cut() {
	r.piece = min(r.rest, maxData)
	r.rest -= r.piece
	flags := byte(0)
	if r.rest == 0 {
		flags = r.flags
	}
	r.out = binary.BigEndian.AppendUint32(nil, uint32(r.stream))
	r.out = binary.BigEndian.AppendUint32(r.out, uint32(flags)<<24|uint32(r.piece))
	if r.rest > 0 || flags&byte(spdy.DataFlagFin) == 0 {
		return
	}
	r.guard.mu.Lock()
	defer r.guard.mu.Unlock()
	r.guard.finish(r.from, r.stream, true)
}

// check hands out a frame other than of data once it is known to be within limits.
func (r *reader) check(head []byte) error {
	if length(head) > maxControl {
		return fmt.Errorf("%w: a frame of %d bytes", ErrLimit, length(head))
	}
	whole := make([]byte, headLength+length(head))
	copy(whole, head)
	if _, err := io.ReadFull(r.source, whole[headLength:]); err != nil {
		return unexpected(err)
	}
	r.control.Write(whole)
	frame, err := r.framer.ReadFrame()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLimit, err)
	}
	if r.control.Len() > 0 {
		return fmt.Errorf("%w: a frame that is longer than what it says", ErrLimit)
	}
	if err := r.guard.note(r.from, frame); err != nil {
		return err
	}
	r.out = whole
	return nil
}

func isControl(head []byte) bool { return head[0]&0x80 != 0 }

func length(head []byte) int { return int(binary.BigEndian.Uint32(head[4:]) & 0xffffff) }

// unexpected is the error of a connection that ended within a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
