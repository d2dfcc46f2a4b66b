package authn

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func requestWith(certificates ...*x509.Certificate) *http.Request {
	return &http.Request{TLS: &tls.ConnectionState{PeerCertificates: certificates}}
}

// That authorities have vouched for a certificate once counts for as long as all of the chain are valid, and for no other.
func TestVouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users, strangers := newAuthority(t), newAuthority(t)
		var v vouched
		eve := users.client(t, "eve")
		for range 2 {
			if leaf, _, err := v.verify(requestWith(eve), users.pool); err != nil || leaf != eve {
				t.Fatalf("got %v, %v, want eve", leaf, err)
			}
			if leaf, _, err := v.verify(requestWith(strangers.client(t, "eve")), users.pool); err == nil {
				t.Fatalf("a stranger is %v", leaf.Subject)
			}
			if leaf, _, err := v.verify(requestWith(strangers.client(t, "eve"), eve), users.pool); err == nil {
				t.Fatalf("a stranger who sends another's certificate too is %v", leaf.Subject)
			}
		}
		time.Sleep(time.Hour + time.Second)
		if _, _, err := v.verify(requestWith(eve), users.pool); err == nil {
			t.Error("a certificate is accepted after its time")
		}
	})
}

// An authority in between that is valid for less time than the certificate ends what it vouches for.
func TestValidityOf(t *testing.T) {
	at := func(minutes int) time.Time { return time.Unix(int64(60*minutes), 0) }
	got := validityOf([]*x509.Certificate{{NotBefore: at(1), NotAfter: at(90)}, {NotBefore: at(2), NotAfter: at(60)}, {NotAfter: at(100)}})
	if want := (validity{at(2), at(60)}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVouchedIsBounded(t *testing.T) {
	var v vouched
	for i := range 3 * mostVouched {
		v.remember(nil, digest([]*x509.Certificate{{Raw: fmt.Append(nil, i)}}), validity{})
	}
	if len(v.good) > mostVouched {
		t.Errorf("%d are remembered, want at most %d", len(v.good), mostVouched)
	}
}

func BenchmarkCertificate(b *testing.B) {
	users := newAuthority(b)
	c := &certificates{authorities: users.list}
	fresh := requestWith(users.client(b, "eve", "g1", "g2"))
	for name, r := range map[string]*http.Request{"known certificate": fresh, "known connection": fresh.WithContext(WithConnection(b.Context()))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok, err := c.AuthenticateRequest(r); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}
