package relationaltest

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/skiff-k8s/skiff/guard"
)

// proxy stands between an engine and its database and can cut the connection on
// which a key is written, in the commit of that.
type proxy struct {
	upstream string

	mu       sync.Mutex
	key      string // empty: nothing is to be cut
	answered bool   // cut after the database has answered, else before it is asked
	cut      bool
}

// startProxy starts a proxy that ends with t, and makes the URL of a database
// one that leads through it.
func startProxy(t testing.TB, address *string) *proxy {
	t.Helper()
	u, err := url.Parse(*address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	p := &proxy{upstream: u.Host}
	u.Host = listener.Addr().String()
	*address = u.String()
	guard.Go("proxy", func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // t has ended
			}
			guard.Go("proxy", func() { p.serve(client) })
		}
	})
	return p
}

// arm lets the next commit of a key be cut.
func (p *proxy) arm(key string, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.answered, p.cut = key, answered, false
}

func (p *proxy) cutOnce() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cut
}

// commits reports whether a message is the commit to be cut: the second on its
// connection that names the key, as the first asked at which revision it is.
func (p *proxy) commits(message []byte, named *int) (cut, answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.key == "" || !bytes.Contains(message, []byte(p.key)) {
		return false, false
	}
	if *named++; *named < 2 {
		return false, false
	}
	p.key, p.cut = "", true
	return true, p.answered
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.upstream)
	if err != nil {
		return
	}
	defer server.Close()
	var swallow sync.Mutex // locked once the next answer is to be lost
	lost := false
	guard.Go("proxy", func() {
		defer client.Close()
		pass(server, func(answer []byte) bool {
			swallow.Lock()
			defer swallow.Unlock()
			if lost {
				return false
			}
			_, err := client.Write(answer)
			return err == nil
		})
	})
	named := 0
	pass(client, func(message []byte) bool {
		cut, answered := p.commits(message, &named)
		if cut && !answered {
			return false
		}
		if cut {
			swallow.Lock()
			lost = true
			swallow.Unlock()
		}
		if _, err := server.Write(message); err != nil {
			return false
		}
		if cut {
			// The other direction ends when the database has answered.
			buffer := make([]byte, 1)
			_, _ = client.Read(buffer)
			return false
		}
		return true
	})
}

// pass reads for as long as what was read is taken.
func pass(from net.Conn, take func([]byte) bool) {
	buffer := make([]byte, 1<<20)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !take(buffer[:n]) || err != nil {
			return
		}
	}
}
