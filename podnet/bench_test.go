package podnet

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// BenchmarkAcross sends a stream between pods of two machines on one link, whose cables have the MTU.
func BenchmarkAcross(b *testing.B) {
	for _, mtu := range []int{1500, 9000} {
		for _, mode := range []Mode{Route, VXLAN} {
			b.Run(fmt.Sprintf("%s, MTU %d", mode, mtu), func(b *testing.B) {
				from, to := linked(b, mode, mtu)
				var listener net.Listener
				var err error
				to.pod.Do(b, func() { listener, err = net.Listen("tcp4", "10.9.2.2:9001") })
				if err != nil {
					b.Fatal(err)
				}
				defer listener.Close()
				got := make(chan int64, 1)
				go func() {
					var n int64
					if conn, err := listener.Accept(); err == nil {
						n, _ = io.Copy(io.Discard, conn)
					}
					got <- n
				}()
				var conn net.Conn
				from.pod.Do(b, func() { conn, err = net.Dial("tcp4", "10.9.2.2:9001") })
				if err != nil {
					b.Fatal(err)
				}
				chunk := make([]byte, 1<<20)
				b.SetBytes(int64(len(chunk)))
				var sent int64
				for b.Loop() {
					n, err := conn.Write(chunk)
					if err != nil {
						b.Fatal(err)
					}
					sent += int64(n)
				}
				conn.Close()
				if n := <-got; n != sent {
					b.Errorf("%d bytes arrived of %d", n, sent)
				}
			})
		}
	}
}

// BenchmarkRequests asks and answers one byte at a time, over one connection.
func BenchmarkRequests(b *testing.B) {
	for _, mode := range []Mode{Route, VXLAN} {
		b.Run(string(mode), func(b *testing.B) {
			from, to := linked(b, mode, 1500)
			var listener net.Listener
			var err error
			to.pod.Do(b, func() { listener, err = net.Listen("tcp4", "10.9.2.2:9001") })
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close()
			go func() {
				if conn, err := listener.Accept(); err == nil {
					_, _ = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, make([]byte, 1))
				}
			}()
			var conn net.Conn
			from.pod.Do(b, func() { conn, err = net.Dial("tcp4", "10.9.2.2:9001") })
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			one := []byte{1}
			for b.Loop() {
				if _, err := conn.Write(one); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, one); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
