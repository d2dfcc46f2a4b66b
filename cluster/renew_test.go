package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/cluster/keypair"
)

// TestCertificatesAreRenewedWhileInUse lets most of a year pass.
func TestCertificatesAreRenewedWhileInUse(t *testing.T) {
	r := &run{addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Config: Config{DataDir: t.TempDir(), Listen: netip.MustParseAddrPort("127.0.0.1:6443"), Log: slog.New(slog.DiscardHandler)}}
	var err error
	if r.pki, err = OpenPKI(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if r.proxies, err = r.pki.FrontProxy(); err != nil {
		t.Fatal(err)
	}
	clock := time.Now()
	r.pki.now = func() time.Time { return clock }
	r.proxies.now = r.pki.now
	proxy, err := r.proxies.Client(frontProxy, frontProxy)
	if err != nil {
		t.Fatal(err)
	}
	if proxy.cert.CheckSignatureFrom(r.pki.ca.cert) == nil {
		t.Error("the authority of users signs for proxies")
	}
	if _, err := r.pki.Server("server", "server", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if err := r.writeKubeconfigs(); err != nil {
		t.Fatal(err)
	}
	component := identity{"component", "system:component", nil}
	if err := r.writeKubeconfig(r.DataDir+"/component", component); err != nil {
		t.Fatal(err)
	}
	serving, err := keypair.Open(r.pki.Files("server"))
	if err != nil {
		t.Fatal(err)
	}
	address := acceptTLS(t, &tls.Config{GetCertificate: serving.Serve, ClientAuth: tls.RequireAnyClientCert})
	person, err := clientcmd.BuildConfigFromFlags("", r.adminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	showing, err := keypair.Open(r.pki.Files(component.file))
	if err != nil {
		t.Fatal(err)
	}
	shown := func() *x509.Certificate { return handshake(t, r.pki, address, clock, showing) }
	first := shown()

	if err := r.renewOnce(); err != nil {
		t.Fatal(err)
	}
	if now := shown(); !now.Equal(first) {
		t.Error("a new certificate was renewed")
	}
	clock = first.NotAfter.Add(-renewBefore)
	if err := r.renewOnce(); err != nil {
		t.Fatal(err)
	}
	clock = first.NotAfter.Add(time.Minute)
	if now := shown(); now.NotAfter.Before(clock) {
		t.Errorf("the certificate ended at %v", now.NotAfter)
	}
	if proxy, err := r.proxies.load(frontProxy); err != nil || proxy.cert.NotAfter.Before(clock) {
		t.Errorf("the certificate of the front proxy was not renewed: %v", err)
	}
	later, err := clientcmd.BuildConfigFromFlags("", r.adminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(later.CertData, person.CertData) {
		t.Error("the administrator's kubeconfig has the old certificate")
	}
	if renewed, err := r.pki.Renew(); err != nil || len(renewed) > 0 {
		t.Errorf("Renew at once again = %q, %v", renewed, err)
	}
	of, err := clientcmd.BuildConfigFromFlags("", r.DataDir+"/component")
	if err != nil {
		t.Fatal(err)
	}
	if cert, key := r.pki.Files(component.file); of.CertFile != cert || of.KeyFile != key {
		t.Errorf("a component's kubeconfig names %s and %s, want the files of the PKI", of.CertFile, of.KeyFile)
	}
}

// acceptTLS shakes hands until the test ends.
func acceptTLS(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake() // its error is the client's too
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// handshake connects at a time, which both certificates must be good for, and
// returns the server's.
func handshake(t *testing.T, p *PKI, address string, now time.Time, showing *keypair.File) *x509.Certificate {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CA())
	var mine *tls.Certificate
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", Time: func() time.Time { return now },
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			mine, err = showing.Show(info)
			return mine, err
		}})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("certificate of the client: %v", err)
	}
	return conn.ConnectionState().PeerCertificates[0]
}

// TestPairThatIsBeingWritten reads between two writes.
func TestPairThatIsBeingWritten(t *testing.T) {
	pki, err := OpenPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Client("x", "x"); err != nil {
		t.Fatal(err)
	}
	file, err := keypair.Open(pki.Files("x"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.Client("other", "other")
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pki.Files("x")
	for _, step := range []struct {
		what   string
		change func() error
		want   string
	}{
		{"nothing is written", func() error { return nil }, "x"},
		{"the key is written", func() error { return os.WriteFile(key, other.KeyPEM, 0o600) }, "x"},
		{"the certificate is away", func() error { return os.Rename(cert, cert+".old") }, "x"},
		{"the certificate is written", func() error { return os.WriteFile(cert, other.CertPEM, 0o644) }, "other"},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		pair, err := file.Serve(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := pair.Leaf.Subject.CommonName; got != step.want {
			t.Errorf("%s: certificate of %s, want of %s", step.what, got, step.want)
		}
	}
}
