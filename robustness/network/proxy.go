package network

import (
	"net"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

// Proxy passes on what is sent between a server and its storage, for as long as
// nothing else is asked of it.
type Proxy struct {
	listener net.Listener
	upstream string

	mu    sync.Mutex
	pairs map[*pair]bool
	trap  *trap
	held  chan struct{} // nil: what comes is passed on; closed when it is again
}

// pair is a connection and its other half.
type pair struct {
	client, server *net.TCPConn
	lost           *trap // what comes from the server next is what the trap waits for; guarded by Proxy.mu
}

// trap waits for a message to the storage.
type trap struct {
	left     int  // messages until then
	answered bool // it is to be passed on, but not its answer
	do       func()
	once     sync.Once
	sprung   chan struct{}
}

// NewProxy listens at an address (port 0: any) and passes on to another.
func NewProxy(address, upstream string) (*Proxy, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, upstream: upstream, pairs: make(map[*pair]bool)}
	guard.Go("proxy", func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // Close was called
			}
			guard.Go("proxy", func() { p.serve(client.(*net.TCPConn)) })
		}
	})
	return p, nil
}

// Address is where it listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Close ends it and its connections.
func (p *Proxy) Close() {
	p.listener.Close()
	p.Release()
	p.Cut()
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pair := range p.pairs {
		pair.reset()
	}
}

// At calls do when the n-th message from now is sent to the storage, before it is
// passed on or else before its answer is, and then resets that connection. sprung
// is closed when that is done.
func (p *Proxy) At(n int, answered bool, do func()) (sprung <-chan struct{}) {
	t := &trap{left: n, answered: answered, do: do, sprung: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = t
	return t.sprung
}

// Hold passes nothing on, and says so to nobody, until Release.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// Release ends what Hold began.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

func (p *Proxy) wait() {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
}

// reset ends both halves so that the other sides are told at once.
func (c *pair) reset() {
	for _, half := range []*net.TCPConn{c.client, c.server} {
		_ = half.SetLinger(0) // it may be closed
		half.Close()
	}
}

// dialing is how long the storage may take to accept a connection.
const dialing = 5 * time.Second

func (p *Proxy) serve(client *net.TCPConn) {
	server, err := net.DialTimeout("tcp", p.upstream, dialing)
	if err != nil {
		_ = client.SetLinger(0)
		client.Close()
		return
	}
	c := &pair{client: client, server: server.(*net.TCPConn)}
	p.mu.Lock()
	p.pairs[c] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.pairs, c)
		lost := c.lost
		p.mu.Unlock()
		if lost != nil { // it ended before there was an answer
			lost.spring(c)
		}
		c.client.Close()
		c.server.Close()
	}()
	var both sync.WaitGroup
	both.Go(func() { defer c.server.Close(); p.pass(client, c.server, func() *trap { return p.message(c) }) })
	both.Go(func() { defer c.client.Close(); p.pass(c.server, client, func() *trap { return p.answer(c) }) })
	both.Wait()
}

// message counts what is about to be passed on, and returns the trap that it is
// to be caught in.
func (p *Proxy) message(c *pair) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.trap
	if t == nil {
		return nil
	}
	if t.left--; t.left > 0 {
		return nil
	}
	p.trap = nil
	if t.answered {
		c.lost = t
		return nil
	}
	return t
}

// answer returns the trap that an answer is caught in.
func (p *Proxy) answer(c *pair) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.lost
}

// pass passes on in one direction until something ends.
func (p *Proxy) pass(from, to *net.TCPConn, caught func() *trap) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			p.wait()
			if t := caught(); t != nil {
				t.spring(&pair{client: from, server: to})
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (t *trap) spring(c *pair) {
	t.once.Do(func() {
		defer close(t.sprung)
		t.do()
		c.reset()
	})
}
