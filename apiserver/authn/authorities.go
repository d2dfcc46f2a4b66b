package authn

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// Authorities are certificates that vouch for others. If they are those of a file, it is read anew when it changes, and certificates that
// the old ones have vouched for alone are not good any more, on connections that are open too. What has no certificate in it is not taken.
type Authorities struct {
	file  string // empty: they stay as they are
	now   atomic.Pointer[bundle]
	after atomic.Int64 // when the file is looked at again, in nanoseconds of Unix time
}

// bundle is one state of Authorities. It is not changed.
type bundle struct {
	pem      []byte
	pool     *x509.CertPool
	modified time.Time
	size     int64
}

// lookAtAuthorities is how often it is seen whether a file has changed.
const lookAtAuthorities = time.Second

// FixedAuthorities are those in PEM.
func FixedAuthorities(pem []byte) (*Authorities, error) {
	b := &bundle{pem: pem, pool: x509.NewCertPool()}
	if !b.pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in PEM")
	}
	a := new(Authorities)
	a.now.Store(b)
	return a, nil
}

// OpenAuthorities are those of a file.
func OpenAuthorities(file string) (*Authorities, error) {
	a := &Authorities{file: file}
	a.now.Store(new(bundle))
	return a, a.read()
}

// PEM is what they are now.
func (a *Authorities) PEM() []byte { return a.current().pem }

func (a *Authorities) pool() *x509.CertPool { return a.current().pool }

// current looks at the file once in a while. One of those who ask reads it; the others go on with what there is.
func (a *Authorities) current() *bundle {
	now, after := time.Now(), a.after.Load()
	if a.file == "" || now.UnixNano() < after || !a.after.CompareAndSwap(after, now.Add(lookAtAuthorities).UnixNano()) {
		return a.now.Load()
	}
	if err := a.read(); err != nil {
		slog.Warn("certificate authorities are not read; the ones before stay in force", "file", a.file, "error", err)
	}
	return a.now.Load()
}

func (a *Authorities) read() error {
	old := a.now.Load()
	info, err := os.Stat(a.file)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(old.modified) && info.Size() == old.size {
		return nil
	}
	data, err := os.ReadFile(a.file)
	if err != nil {
		return err
	}
	b := &bundle{pem: data, pool: x509.NewCertPool(), modified: info.ModTime(), size: info.Size()}
	if !b.pool.AppendCertsFromPEM(data) {
		return fmt.Errorf("%s: no certificate in PEM", a.file)
	}
	a.now.Store(b)
	return nil
}
