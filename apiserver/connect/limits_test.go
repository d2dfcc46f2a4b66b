package connect

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	spdyframe "github.com/moby/spdystream/spdy"
	"k8s.io/client-go/tools/remotecommand"
)

// rawSocket is a WebSocket whose frames the test writes itself.
type rawSocket struct {
	net.Conn
	in *bufio.Reader
}

func dialRaw(t *testing.T, u *url.URL, protocol string) *rawSocket {
	t.Helper()
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", u.RequestURI(), u.Host, protocol)
	s := &rawSocket{conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v, want an upgrade", resp, err)
	}
	return s
}

// The first byte of a frame.
const (
	wholeText   = 0x81
	wholeBinary = 0x82
	firstPart   = 0x02
	nextPart    = 0x00
)

// begin writes the head of a frame of any length, masked with zeros.
func (s *rawSocket) begin(kind byte, length uint64) {
	head := append([]byte{kind, 0x80 | 127}, binary.BigEndian.AppendUint64(nil, length)...)
	_, _ = s.Write(append(head, 0, 0, 0, 0))
}

// fill writes bytes until the server takes no more.
func (s *rawSocket) fill(length int) {
	block := make([]byte, 64<<10)
	for sent := 0; sent < length; sent += len(block) {
		if _, err := s.Write(block[:min(len(block), length-sent)]); err != nil {
			return
		}
	}
}

// status reads until the server closes and returns what it said and why it closes, 0 if it does not say.
func (s *rawSocket) status() (said []byte, why int) {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(s.in, head); err != nil {
			return said, 0
		}
		length := uint64(head[1])
		if length >= 126 {
			size := make([]byte, map[uint64]int{126: 2, 127: 8}[length])
			_, _ = io.ReadFull(s.in, size)
			length = binary.BigEndian.Uint64(append(make([]byte, 8-len(size)), size...))
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(s.in, payload); err != nil {
			return said, 0
		}
		if head[0]&0xf == 8 {
			return said, int(binary.BigEndian.Uint16(payload))
		}
		said = append(said, payload...)
	}
}

func TestLongMessages(t *testing.T) {
	w := newWorld(t, http.NotFoundHandler())
	other := dialSession(t, w, "cat")
	for _, c := range []struct {
		name, path, protocol string
		kind, channel        byte
		flat                 bool // nothing of the message is to be held or passed on
	}{
		{"to a program", "pods/web/exec?command=drain&stdin=1&stdout=1", "v5.channel.k8s.io", wholeBinary, channelIn, false},
		{"to a channel that is not there", "pods/web/exec?command=drain&stdin=1&stdout=1", "v5.channel.k8s.io", wholeBinary, 9, true},
		{"as a size", "pods/web/exec?command=drain&stdin=1&stdout=1&tty=1", "v5.channel.k8s.io", wholeBinary, channelResize, true},
		{"as the end of a channel", "pods/web/exec?command=drain&stdin=1&stdout=1", "v5.channel.k8s.io", wholeBinary, channelClose, true},
		{"in base64", "pods/web/exec?command=drain&stdin=1&stdout=1", "base64.channel.k8s.io", wholeText, '0', true},
		{"in parts", "pods/web/exec?command=drain&stdin=1&stdout=1", "v5.channel.k8s.io", firstPart, 9, true},
		{"to a log", "pods/web/log?follow=1&container=main&sinceSeconds=99", "binary.k8s.io", wholeBinary, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, query, _ := strings.Cut(c.path, "?")
			u := w.url(path, nil)
			u.RawQuery = query
			s := dialRaw(t, u, c.protocol)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			go func() {
				if c.kind != firstPart {
					s.begin(c.kind, 1<<30)
					_, _ = s.Write([]byte{c.channel})
					s.fill(1<<30 - 1)
					return
				}
				s.begin(firstPart, 1)
				_, _ = s.Write([]byte{c.channel})
				for range 2 * maxMessage >> 20 {
					s.begin(nextPart, 1<<20)
					s.fill(1 << 20)
				}
			}()
			if _, got := s.status(); got != int(websocket.StatusMessageTooBig) {
				t.Errorf("closed with %d, want %d", got, websocket.StatusMessageTooBig)
			}
			s.Close()
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; c.flat && used > 8<<20 {
				t.Errorf("%d bytes were allocated for it, want few", used)
			}
		})
	}
	if got := other.say(t, "still here"); got != "still here" {
		t.Errorf("another session: got %q, want %q", got, "still here")
	}
}

// session is one with a program that answers on stdout.
type session struct{ *websocket.Conn }

func dialSession(t *testing.T, w *world, command string) session {
	t.Helper()
	u := w.url("pods/web/exec", url.Values{"command": {command}, "stdin": {"1"}, "stdout": {"1"}})
	u.Scheme = "ws"
	conn, _, err := websocket.Dial(t.Context(), u.String(), &websocket.DialOptions{Subprotocols: []string{"v5.channel.k8s.io"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return session{conn}
}

// say gives the program a text and returns what it answers, as long.
func (s session) say(t *testing.T, text string) string {
	t.Helper()
	if err := s.Write(t.Context(), websocket.MessageBinary, append([]byte{channelIn}, text...)); err != nil {
		t.Fatal(err)
	}
	var got string
	for len(got) < len(text) {
		_, message, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if message[0] == channelOut {
			got += string(message[1:])
		}
	}
	return got
}

// A message as long as it may be arrives whole.
func TestLongestMessage(t *testing.T) {
	w := newWorld(t, http.NotFoundHandler())
	u := w.url("pods/web/exec", url.Values{"command": {"count"}, "stdin": {"1"}, "stdout": {"1"}})
	s := dialRaw(t, u, "v5.channel.k8s.io")
	s.begin(wholeBinary, maxMessage)
	s.fill(maxMessage) // channel 0 and zeros
	s.begin(wholeBinary, 2)
	_, _ = s.Write([]byte{channelClose, channelIn})
	said, why := s.status()
	s.Close()
	if want := fmt.Sprint(maxMessage-1, " bytes"); why != int(websocket.StatusNormalClosure) || !bytes.Contains(said, []byte(want)) {
		t.Errorf("got %q and status %d, want %q and %d", said, why, want, websocket.StatusNormalClosure)
	}
}

// spdyKubelet is a kubelet that answers the streams of a session, and then sends what it likes.
func spdyKubelet(frames func(to *spdyframe.Framer)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "SPDY/3.1")
		w.Header().Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, ahead, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		framer, err := spdyframe.NewFramer(conn, ahead)
		if err != nil {
			return
		}
		for answered := 0; answered < 2; { // the stream of errors and that of the output
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			if opened, ok := frame.(*spdyframe.SynStreamFrame); ok {
				answered++
				_ = framer.WriteFrame(&spdyframe.SynReplyFrame{StreamId: opened.StreamId})
			}
		}
		frames(framer)
		_, _ = io.Copy(io.Discard, conn) // until the other side has had enough
	})
}

// A kubelet that sends what no session needs ends the session, and nothing else.
func TestUntrustworthyKubelet(t *testing.T) {
	for name, frames := range map[string]func(*spdyframe.Framer){
		"opens streams": func(to *spdyframe.Framer) { _ = to.WriteFrame(&spdyframe.SynStreamFrame{StreamId: 2}) },
		"sends headers that unpack to a lot": func(to *spdyframe.Framer) {
			_ = to.WriteFrame(&spdyframe.HeadersFrame{StreamId: 1, Headers: http.Header{"X": {strings.Repeat("0", 1<<20)}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, httptest.NewTLSServer(spdyKubelet(frames)), http.NotFoundHandler())
			e, err := remotecommand.NewWebSocketExecutor(w.config, "GET", w.url("pods/web/exec", url.Values{"command": {"x"}, "stdout": {"true"}}).String())
			if err != nil {
				t.Fatal(err)
			}
			err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "beyond the limits of a session") {
				t.Errorf("got %v, want that the session is broken off", err)
			}
		})
	}
}

// pageOf reads the page of a pod through the proxy.
func pageOf(t *testing.T, pod http.HandlerFunc) (string, error) {
	t.Helper()
	w := newWorld(t, pod)
	resp, err := http.Get(w.api.URL + "/api/v1/namespaces/default/pods/web/proxy/page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

const prefixOfPod = "/api/v1/namespaces/default/pods/web/proxy"

// A page is passed on as it comes: it would else have to fit into memory, and one without an end never came.
func TestPageThatHasNoEnd(t *testing.T) {
	seen := make(chan struct{})
	w := newWorld(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="/first">`)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-seen:
			fmt.Fprint(w, `<a href="/second">`)
		case <-r.Context().Done():
		}
	}))
	client := &http.Client{Timeout: time.Minute}
	resp, err := client.Get(w.api.URL + prefixOfPod + "/page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, link := range []string{"/first", "/second"} {
		want := `<a href="` + prefixOfPod + link + `">`
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
		if link == "/first" {
			close(seen)
		}
	}
}

func TestPages(t *testing.T) {
	const link, changed = `<a href="/x">`, `<a href="` + prefixOfPod + `/x">`
	long := strings.Repeat("x", 2*maxToken)
	many := strings.Repeat("<p>text</p>"+link, 50_000)
	for _, c := range []struct{ name, page, want string }{
		{"many tags", many, strings.ReplaceAll(many, link, changed)},
		{"a long text", link + long + link, changed + long + link},
		{"a long script", link + "<script>" + long + "</script>" + link, changed + "<script>" + long + "</script>" + link},
		{"a long tag", link + `<a title="` + long + `" href="/x">`, changed + `<a title="` + long + `" href="/x">`},
		{"an end within a tag", link + `<a href="/x`, changed + `<a href="/x`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := pageOf(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				_, _ = io.WriteString(w, c.page)
			})
			if err != nil || got != c.want {
				t.Errorf("got %d bytes, %v, want %d", len(got), err, len(c.want))
			}
		})
		t.Run(c.name+", compressed", func(t *testing.T) {
			got, err := pageOf(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = io.WriteString(z, c.page)
				_ = z.Close()
			})
			if err != nil || got != c.want { // the client unpacks
				t.Errorf("got %d bytes, %v, want %d", len(got), err, len(c.want))
			}
		})
	}
}

// FuzzPage sees that a page changes in its links only, whatever it is.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`<a href="/x">text</a><script>if (a<b) {}</script><!-- c -->`), 3)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		l := &rewriter{prefix: "/p", host: "h"}
		read := func(in io.Reader, size int) string {
			p := &page{links: l}
			p.begin(in, &p.done)
			var out strings.Builder
			buffer := make([]byte, size)
			for {
				n, err := p.Read(buffer)
				out.Write(buffer[:n])
				if err != nil {
					return out.String()
				}
			}
		}
		whole := read(bytes.NewReader(raw), 1<<20)
		if got := read(bytes.NewReader(raw), 1+(size&0xff)); got != whole {
			t.Errorf("in pieces %q, at once %q", got, whole)
		}
		if !bytes.ContainsRune(raw, '<') && whole != string(raw) {
			t.Errorf("a page without tags became %q", whole)
		}
	})
}

// drain and count are programs that read all of their input.
func drain(in io.Reader) error {
	_, err := io.Copy(io.Discard, in)
	return err
}

func count(in io.Reader, out io.Writer) error {
	n, err := io.Copy(io.Discard, in)
	fmt.Fprint(out, n, " bytes")
	return err
}
