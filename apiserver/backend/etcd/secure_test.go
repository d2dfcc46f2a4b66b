package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/etcd"
)

// certificate writes one for 127.0.0.1 that serves, is shown and is its own authority.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", keyDER)
}

// An etcd that wants certificates and passwords is opened by those who have them.
func TestSecure(t *testing.T) {
	cert, key := certificate(t)
	query := "?ca=" + cert + "&cert=" + cert + "&key=" + key
	config, err := etcd.Parse("etcd://a"+query, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	config.TLS.Certificates = []tls.Certificate{pair}
	m := clusterOver(t, config.TLS, 1, "--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", cert)[0]
	client := raw(t, m)
	defer client.Close()
	ctx := t.Context()
	if _, err := client.UserAdd(ctx, "root", "p@ss/word"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.UserGrantRole(ctx, "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(m.client, "https://")
	for _, c := range []struct{ name, address, want string }{
		{"all right", "etcd://root:p%40ss%2Fword@" + host + query, ""},
		{"wrong password", "etcd://root:secret@" + host + query, "authentication failed"},
	} {
		config, err := etcd.Parse(c.address, os.Getenv)
		if err != nil {
			t.Fatal(err)
		}
		b, err := etcd.Open(config)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: got %v, want %s", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		defer b.Close()
		first, err := b.Put(ctx, "/a", []byte("1"), backend.Absent, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for change, err := range b.Watch(ctx, "/", first-1) {
			if err != nil || change.Key != "/a" {
				t.Errorf("watch: got %v, %v", change, err)
			}
			break
		}
	}
}
