package sharing_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// balancer is a TCP load balancer: each connection goes to the next of the servers that takes it.
type balancer struct {
	listener net.Listener
	servers  []string
	next     atomic.Int64
	open     sync.WaitGroup
}

// balance listens on loopback until the test ends.
func balance(t *testing.T, servers ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{listener: l, servers: servers}
	b.open.Go(b.accept)
	t.Cleanup(func() { l.Close() })
	return b
}

func (b *balancer) address() string { return b.listener.Addr().String() }

func (b *balancer) accept() {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return // the test has ended
		}
		b.open.Go(func() { b.pass(client) })
	}
}

func (b *balancer) pass(client net.Conn) {
	defer client.Close()
	server, err := b.dial()
	if err != nil {
		return
	}
	defer server.Close()
	// Where one direction ends, so does the connection: what was said has been passed on.
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		b.open.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		})
	}
	<-ended
}

// dial connects to the next server that is there.
func (b *balancer) dial() (conn net.Conn, err error) {
	first := b.next.Add(1)
	for i := range int64(len(b.servers)) {
		if conn, err = net.Dial("tcp", b.servers[(first+i)%int64(len(b.servers))]); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
