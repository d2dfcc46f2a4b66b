package cluster

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestCertificatesOutliveAStart(t *testing.T) {
	dir := t.TempDir()
	var certs [2]Pair
	for i := range certs {
		pki, err := OpenPKI(dir)
		if err != nil {
			t.Fatal(err)
		}
		if certs[i], err = pki.Client("admin", "kubernetes-admin", "system:masters"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(certs[0].CertPEM, certs[1].CertPEM) {
		t.Error("the second start issued another certificate")
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, pki *PKI, dir string){
		"for other groups": func(t *testing.T, pki *PKI, _ string) {
			if _, err := pki.Client("x", "me", "others"); err != nil {
				t.Fatal(err)
			}
		},
		"after a start that wrote the key alone": func(t *testing.T, pki *PKI, dir string) {
			other, err := pki.Client("other", "other")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "x.key"), other.KeyPEM, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pki, err := OpenPKI(dir)
			if err != nil {
				t.Fatal(err)
			}
			before, err := pki.Client("x", "me", "group")
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, pki, dir)
			after, err := pki.Client("x", "me", "group")
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(before.CertPEM, after.CertPEM) {
				t.Error("the old certificate is still used")
			}
			if _, err := tls.X509KeyPair(after.CertPEM, after.KeyPEM); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCertificatesAskedForAtOnce(t *testing.T) {
	pki, err := OpenPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			pair, err := pki.Client("proxy", "system:kube-proxy")
			if err == nil {
				_, err = tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
