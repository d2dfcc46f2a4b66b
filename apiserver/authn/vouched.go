package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// vouched remembers which client certificates authorities have vouched for: to check the signatures takes longer than
// most of a request, and a client has one certificate for many. The zero value knows of none. What it knows it
// forgets when it is asked about other authorities.
type vouched struct {
	mu   sync.RWMutex
	by   *x509.CertPool
	good map[[sha256.Size]byte]validity // by what was sent: the certificate, and those between it and an authority
}

// validity is when all certificates of a chain are valid.
type validity struct{ from, to time.Time }

func (v validity) at(now time.Time) bool { return !now.Before(v.from) && !now.After(v.to) }

// mostVouched bounds what is remembered.
const mostVouched = 1000

// verify returns the client certificate of a connection if authorities vouch for it, and for how long, nil if there is
// none.
func (v *vouched) verify(r *http.Request, authorities *x509.CertPool) (*x509.Certificate, validity, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, validity{}, nil
	}
	leaf, rest := r.TLS.PeerCertificates[0], r.TLS.PeerCertificates[1:]
	sent, now := digest(r.TLS.PeerCertificates), time.Now()
	if is, known := v.knows(authorities, sent, now); known {
		return leaf, is, nil
	}
	options := x509.VerifyOptions{
		Roots:         authorities,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range rest {
		options.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return nil, validity{}, fmt.Errorf("verify client certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	is := validityOf(chains[0])
	v.remember(authorities, sent, is)
	return leaf, is, nil
}

// digest tells what was sent apart from all else.
func digest(certificates []*x509.Certificate) (sum [sha256.Size]byte) {
	if len(certificates) == 1 {
		return sha256.Sum256(certificates[0].Raw)
	}
	h := sha256.New()
	for _, c := range certificates {
		h.Write(c.Raw) // DER says itself how long it is
	}
	h.Sum(sum[:0])
	return sum
}

// validityOf is the time in which all of a chain are valid.
func validityOf(chain []*x509.Certificate) validity {
	v := validity{chain[0].NotBefore, chain[0].NotAfter}
	for _, c := range chain[1:] {
		if c.NotBefore.After(v.from) {
			v.from = c.NotBefore
		}
		if c.NotAfter.Before(v.to) {
			v.to = c.NotAfter
		}
	}
	return v
}

func (v *vouched) knows(by *x509.CertPool, sent [sha256.Size]byte, now time.Time) (is validity, known bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	is, known = v.good[sent]
	return is, known && v.by == by && is.at(now)
}

func (v *vouched) remember(by *x509.CertPool, sent [sha256.Size]byte, is validity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.good == nil || len(v.good) >= mostVouched || v.by != by {
		v.by = by
		v.good = make(map[[sha256.Size]byte]validity)
	}
	v.good[sent] = is
}
