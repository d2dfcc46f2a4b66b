//go:build programs

package programs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// address is that of a load balancer of the release: one of a Service or of an Ingress.
func (r release) address(t *testing.T, object string) string {
	t.Helper()
	return strings.TrimSpace(r.until(t, func(out string) bool { return net.ParseIP(strings.TrimSpace(out)) != nil }, object, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"))
}

// createCertificate makes a certificate for a host, which it puts into a Secret, and returns who trusts it.
func (c *cluster) createCertificate(t *testing.T, namespace, secret, host string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	certificate, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: certificate}, "tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.kubectl(t, "create", "secret", "tls", secret, "--namespace", namespace, "--cert", filepath.Join(dir, "tls.crt"), "--key", filepath.Join(dir, "tls.key"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	return roots
}

// client is one of the web for which every host has the address.
func client(roots *x509.CertPool, address string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, at string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(at)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address, port))
		},
	}}
}

// fetch gets a page, which must be there, if not at once then within a minute.
func fetch(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	return fetchUntil(t, client, url, func(string) bool { return true })
}

// fetchUntil gets a page until it is as it is to be, for at most a minute.
func fetchUntil(t *testing.T, client *http.Client, url string, done func(page string) bool) string {
	t.Helper()
	var last string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		response, err := client.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && response.StatusCode == http.StatusOK && done(string(body)) {
			return string(body)
		}
		last = response.Status + " " + string(bytes.TrimSpace(body))
	}
	t.Fatalf("get %s: %s", url, last)
	return ""
}

// create posts an object to a path of the API.
func (c *cluster) create(t *testing.T, path, object string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "object.json")
	if err := os.WriteFile(file, []byte(object), 0o600); err != nil {
		t.Fatal(err)
	}
	return c.Kubectl(t, "create", "--raw", path, "-f", file)
}
