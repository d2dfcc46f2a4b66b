// Package keypair reads a certificate and its key from files that are written
// anew while they are used.
package keypair

import (
	"crypto/tls"
	"os"
	"sync"
	"time"
)

// File is a certificate and its key on disk. Each connection is made with what
// is in the files then; while they do not match each other, because they are
// just being written, with what was there before.
type File struct {
	cert, key string

	mu    sync.Mutex
	pair  *tls.Certificate
	stamp [2]stamp
}

// stamp tells one state of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// Open reads the files.
func Open(cert, key string) (*File, error) {
	f := &File{cert: cert, key: key}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	f.pair = &pair // without its stamp: it may be another one already
	return f, nil
}

// Serve is for tls.Config.GetCertificate.
func (f *File) Serve(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.now(), nil }

// Show is for tls.Config.GetClientCertificate.
func (f *File) Show(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.now(), nil }

func (f *File) now() *tls.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := [2]stamp{stampOf(f.cert), stampOf(f.key)}
	if found == f.stamp {
		return f.pair
	}
	if pair, err := tls.LoadX509KeyPair(f.cert, f.key); err == nil {
		f.pair, f.stamp = &pair, found
	}
	return f.pair
}

// stampOf is zero for a file that is not there.
func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}
