package gather_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/gather"
)

const patience = time.Minute

// gate is a connection that is written to while it is open.
type gate struct {
	net.Conn

	mu     sync.Mutex
	opens  sync.Cond
	open   bool
	begun  int // writes
	writes []string
}

func newGate(conn net.Conn, open bool) *gate {
	g := &gate{Conn: conn, open: open}
	g.opens.L = &g.mu
	return g
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = open
	g.opens.Broadcast()
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begun++
	for !g.open {
		g.opens.Wait()
	}
	g.writes = append(g.writes, string(p))
	if g.Conn == nil {
		return len(p), nil
	}
	return g.Conn.Write(p)
}

func (g *gate) written() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.writes)
}

func (g *gate) SetWriteDeadline(t time.Time) error {
	if g.Conn == nil {
		return nil
	}
	return g.Conn.SetWriteDeadline(t)
}

func write(t *testing.T, c *gather.Conn, text string) {
	t.Helper()
	if n, err := io.WriteString(c, text); n != len(text) || err != nil {
		t.Fatalf("write %d bytes: %d, %v", len(text), n, err)
	}
}

// TestTogether: what is written while something is being written leaves at once, in order.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(nil, false)
		c := gather.New(g, patience)
		c.Gather()
		write(t, c, "first")
		synctest.Wait() // it is on its way
		var rest strings.Builder
		for i := range 100 {
			piece := fmt.Sprint(i, " ")
			rest.WriteString(piece)
			write(t, c, piece)
		}
		g.set(true)
		synctest.Wait()
		if got, want := g.written(), []string{"first", rest.String()}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		write(t, c, "later")
		synctest.Wait()
		if got := g.written(); got[len(got)-1] != "later" {
			t.Errorf("after a pause got %q", got)
		}
	})
}

// TestPassedOn: until it is told to, a connection gathers nothing.
func TestPassedOn(t *testing.T) {
	g := newGate(nil, true)
	c := gather.New(g, patience)
	for _, piece := range []string{"a", "b"} {
		write(t, c, piece)
		if got := g.written(); got[len(got)-1] != piece {
			t.Errorf("got %q when %q was written", got, piece)
		}
	}
}

// TestRoom: when much is waiting, a writer waits.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(nil, false)
		c := gather.New(g, patience)
		c.Gather()
		much := strings.Repeat("x", 16<<10)
		write(t, c, much)
		synctest.Wait()
		var done, wrote int
		go func() {
			for range 100 {
				write(t, c, much)
				wrote++
			}
			done++
		}()
		synctest.Wait()
		if done > 0 || wrote*len(much) != 64<<10 {
			t.Errorf("%d KiB were taken, want 64", wrote*len(much)>>10)
		}
		g.set(true)
		synctest.Wait()
		if got := len(strings.Join(g.written(), "")); done == 0 || got != 101*len(much) {
			t.Errorf("all written: %v, %d bytes, want %d", done > 0, got, 101*len(much))
		}
	})
}

// TestClose tells what a client gets of what was written before, and how long Close takes.
func TestClose(t *testing.T) {
	for _, c := range []struct {
		name    string
		reads   time.Duration // when the client begins; 0: never
		writers bool          // one of them waits for room
		takes   time.Duration
		want    string
	}{
		{"a client that reads", time.Second, false, time.Second, "answer"},
		{"one that does not", 0, false, 5 * time.Second, ""},
		{"one for which a writer waits already", 0, true, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				conn := gather.New(server, patience)
				conn.Gather()
				write(t, conn, "answer")
				synctest.Wait()
				failed := make(chan error, 1)
				if c.writers {
					go func() {
						for {
							if _, err := conn.Write(make([]byte, 16<<10)); err != nil {
								failed <- err
								return
							}
						}
					}()
					synctest.Wait()
				}
				began := time.Now()
				got := make(chan string, 1)
				go func() {
					if c.reads == 0 {
						got <- ""
						return
					}
					time.Sleep(c.reads)
					all, _ := io.ReadAll(client)
					got <- string(all)
				}()
				conn.Close()
				if took := time.Since(began); took != c.takes {
					t.Errorf("took %v, want %v", took, c.takes)
				}
				if c.writers && <-failed == nil {
					t.Error("the writer was told of no error")
				}
				if text := <-got; text != c.want {
					t.Errorf("the client got %q, want %q", text, c.want)
				}
			})
		})
	}
}

// TestPatience: a client may be slow, but not do nothing.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name  string
		reads bool
	}{{"a byte every 50 s", true}, {"nothing", false}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				conn := gather.New(server, patience)
				conn.Gather()
				defer client.Close()
				write(t, conn, "slow")
				if c.reads {
					for range "slow" {
						time.Sleep(50 * time.Second)
						io.ReadFull(client, make([]byte, 1))
					}
				}
				time.Sleep(patience + time.Second)
				_, err := io.WriteString(conn, "more")
				if failed := err != nil; failed == c.reads {
					t.Errorf("the next write failed: %v", err)
				}
				if !c.reads {
					if _, err := client.Read(make([]byte, 10)); !errors.Is(err, io.EOF) {
						t.Errorf("the connection is not closed: %v", err)
					}
				}
				client.Close()
				conn.Close()
			})
		})
	}
}

// gates makes gates of what a listener accepts.
type gates struct {
	net.Listener
	made chan *gate
}

func (l gates) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := newGate(conn, true)
	l.made <- g
	return g, nil
}

// TestHTTP2: a handler whose flushes nobody takes yet is not held up by them, and they leave together.
func TestHTTP2(t *testing.T) {
	const flushes = 20
	made, entered, closed, done := make(chan *gate, 1), make(chan struct{}), make(chan struct{}), make(chan struct{})
	event := strings.Repeat("e", 1000)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("asked over HTTP/%d", r.ProtoMajor)
		}
		http.NewResponseController(w).Flush() // the header
		close(entered)
		<-closed
		for range flushes {
			io.WriteString(w, event)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
		close(done)
	}))
	server.EnableHTTP2 = true
	server.Listener = gather.Listen(gates{server.Listener, made}, patience)
	server.Config.ConnState = gather.HTTP2
	server.StartTLS()
	defer server.Close()
	body := make(chan []byte, 1)
	go func() {
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			t.Error(err)
			body <- nil
			return
		}
		defer resp.Body.Close()
		all, _ := io.ReadAll(resp.Body)
		body <- all
	}()
	g := <-made
	<-entered
	g.set(false)
	before := len(g.written())
	close(closed)
	<-done // though the gate is closed
	if n := len(g.written()); n != before {
		t.Errorf("%d writes while the gate was closed", n-before)
	}
	g.set(true)
	if got, want := <-body, bytes.Repeat([]byte(event), flushes); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}
