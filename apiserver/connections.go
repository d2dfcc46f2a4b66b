package apiserver

import (
	"net"
	"sync"
	"syscall"
)

// mostConnections is how many connections a server has that is not told: as
// many as memory is for, and no more than half of the files that the process may
// open, for it has others to open, those of the storage before all.
func mostConnections() int {
	const most = 20_000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return most
	}
	return int(min(most, files.Cur/2))
}

// capped is a listener that closes what comes when there are too many
// connections. One address can have half of them.
type capped struct {
	net.Listener
	most int

	mu   sync.Mutex
	all  int
	from map[string]int // by address
}

func newCapped(l net.Listener, most int) *capped {
	return &capped{Listener: l, most: most, from: make(map[string]int)}
}

// Accept waits for a connection that there is room for.
func (l *capped) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
		if err != nil {
			host = "" // of no network: all such are one address
		}
		if l.take(host) {
			return &countedConn{Conn: conn, release: sync.OnceFunc(func() { l.giveBack(host) })}, nil
		}
		conn.Close()
	}
}

func (l *capped) take(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.most || l.from[host] >= (l.most+1)/2 {
		return false
	}
	l.all++
	l.from[host]++
	return true
}

func (l *capped) giveBack(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[host]--; l.from[host] == 0 {
		delete(l.from, host)
	}
}

// countedConn counts until it is closed.
type countedConn struct {
	net.Conn
	release func()
}

func (c *countedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
