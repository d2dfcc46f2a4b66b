package codec

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// compressed asks for an answer like those who can unpack.
func compressed() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	return r
}

// TestCompresses has pieces of all sizes at once, and unpacks them.
func TestCompresses(t *testing.T) {
	for name, sizes := range map[string][]int{
		"one piece":      {3*perTurn + 5},
		"small ones":     {1, 100, 0, 200_000, 3},
		"just a turn":    {perTurn, perTurn, perTurn},
		"many as a list": make([]int, 1000),
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.NewChaCha8([32]byte{})
			var b Body
			for _, size := range sizes {
				if size == 0 {
					size = 150
				}
				piece := make([]byte, size)
				random.Read(piece)
				b = append(b, piece)
			}
			for range 2 { // the second one uses what the first has left
				w := httptest.NewRecorder()
				if err := b.Write(w, compressed(), http.StatusOK, JSON); err != nil {
					t.Fatal(err)
				}
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(z)
				if err != nil || !bytes.Equal(got, bytes.Join(b, nil)) {
					t.Fatalf("%d bytes of %d, %v", len(got), b.Size(), err)
				}
			}
		})
	}
}

// unread is a client that reads nothing until it is let.
type unread struct {
	*httptest.ResponseRecorder
	reached func()
	read    chan struct{}
}

func (u *unread) Write(p []byte) (int, error) {
	u.reached()
	<-u.read
	return u.ResponseRecorder.Write(p)
}

// TestNobodyReads: answers that nobody reads have no turn, so that others are compressed meanwhile.
func TestNobodyReads(t *testing.T) {
	piece := make([]byte, 4*perTurn)
	rand.NewChaCha8([32]byte{}).Read(piece) // so that something is written before the end
	var reached, ended sync.WaitGroup
	read := make(chan struct{})
	for range cap(turns) + 1 {
		reached.Add(1)
		ended.Go(func() {
			w := &unread{httptest.NewRecorder(), sync.OnceFunc(reached.Done), read}
			if err := (Body{piece}).Write(w, compressed(), http.StatusOK, JSON); err != nil {
				t.Error(err)
			}
		})
	}
	reached.Wait()
	w := httptest.NewRecorder()
	if err := (Body{piece}).Write(w, compressed(), http.StatusOK, JSON); err != nil || w.Body.Len() == 0 {
		t.Errorf("%d bytes, %v", w.Body.Len(), err)
	}
	close(read)
	ended.Wait()
}

// TestTurns: while as many compress as may, a large answer waits, and a small one does not.
func TestTurns(t *testing.T) {
	for range cap(turns) {
		turns <- struct{}{}
	}
	large := httptest.NewRecorder()
	done := make(chan error)
	go func() {
		done <- Body{make([]byte, compressOver+1)}.Write(large, compressed(), http.StatusOK, JSON)
	}()
	small := httptest.NewRecorder()
	if err := (Body{[]byte("small")}).Write(small, compressed(), http.StatusOK, JSON); err != nil || small.Body.String() != "small" {
		t.Errorf("%s, %v", small.Body, err)
	}
	select {
	case err := <-done:
		t.Errorf("a large answer had a turn where there is none: %v", err)
		return
	default:
	}
	for range cap(turns) {
		<-turns
	}
	if err := <-done; err != nil || large.Body.Len() == 0 {
		t.Errorf("%d bytes, %v", large.Body.Len(), err)
	}
}
