package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/atomicfile"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is made anew.
	renewBefore = 90 * 24 * time.Hour
)

// PKI is the cluster's certificate authority and the certificates it issued,
// kept as PEM files in a folder so that a cluster keeps its identity across
// starts. It may be used concurrently.
type PKI struct {
	dir string
	ca  Pair
	now func() time.Time

	mu     sync.Mutex                   // held while files are looked at and written
	issued map[string]*x509.Certificate // what each certificate asked for must say, by name
}

// Pair is a certificate with its private key.
type Pair struct {
	CertPEM, KeyPEM []byte
	cert            *x509.Certificate
	key             crypto.Signer
}

// OpenPKI reads the authority in dir, or makes one there.
func OpenPKI(dir string) (*PKI, error) { return openPKI(dir, "skiff-ca") }

// FrontProxy is the authority of those who may say on whose behalf they ask. It
// is another one than that of users: who has a certificate of a user must not
// be taken for a proxy by servers that know no names.
func (p *PKI) FrontProxy() (*PKI, error) {
	return openPKI(filepath.Join(p.dir, "front-proxy"), "skiff-front-proxy-ca")
}

func openPKI(dir, name string) (*PKI, error) {
	dir, err := filepath.Abs(dir) // kubeconfigs name files in it
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Folder(dir, 0o700); err != nil {
		return nil, err
	}
	p := &PKI{dir: dir, now: time.Now, issued: make(map[string]*x509.Certificate)}
	ca, err := p.load("ca")
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = p.create("ca", &x509.Certificate{
			Subject:               pkix.Name{CommonName: name},
			NotAfter:              p.now().Add(caLifetime),
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	p.ca = ca
	return p, nil
}

// CA is the certificate every client and server of the cluster trusts.
func (p *PKI) CA() []byte { return p.ca.CertPEM }

// Client issues a client certificate for a user in groups.
func (p *PKI) Client(name, user string, groups ...string) (Pair, error) {
	return p.issue(name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server issues a serving certificate for DNS names and addresses.
func (p *PKI) Server(name, commonName string, hosts ...string) (Pair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: commonName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return p.issue(name, template)
}

// Key is a private key without a certificate, such as the one that signs
// service account tokens.
func (p *PKI) Key(name string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	file := filepath.Join(p.dir, name+".key")
	data, err := os.ReadFile(file)
	if err == nil {
		return data, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	return keyPEM, atomicfile.Write(file, keyPEM, 0o600)
}

// issue returns the certificate on disk if it still says what template says
// and lasts, else a new one.
func (p *PKI) issue(name string, template *x509.Certificate) (Pair, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.issued[name] = template
	pair, _, err := p.ensure(name, template)
	return pair, err
}

// Renew makes anew the certificates asked for that are about to end, and
// returns their names. The files of the others stay as they are.
func (p *PKI) Renew() (renewed []string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.issued)) {
		_, made, failure := p.ensure(name, p.issued[name])
		if made {
			renewed = append(renewed, name)
		}
		err = errors.Join(err, failure)
	}
	return renewed, err
}

// Files are where a certificate and its key are kept. They are written anew
// when the certificate is renewed, the key first.
func (p *PKI) Files(name string) (cert, key string) {
	file := filepath.Join(p.dir, name)
	return file + ".crt", file + ".key"
}

// ensure returns what is on disk if it is good, else it makes it.
func (p *PKI) ensure(name string, template *x509.Certificate) (pair Pair, made bool, err error) {
	pair, err = p.load(name)
	if err == nil && pair.matches() && p.good(pair.cert, template) {
		return pair, false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Pair{}, false, fmt.Errorf("certificate %s: %w", name, err)
	}
	fresh := *template
	fresh.NotAfter = p.now().Add(certLifetime)
	pair, err = p.create(name, &fresh, &p.ca)
	return pair, err == nil, err
}

// matches reports whether the key is the certificate's. It is not when a start
// was cut off after it had written a new key.
func (p Pair) matches() bool {
	public, ok := p.cert.PublicKey.(*ecdsa.PublicKey)
	return ok && public.Equal(p.key.Public())
}

func (p *PKI) good(cert, want *x509.Certificate) bool {
	return cert.CheckSignatureFrom(p.ca.cert) == nil &&
		cert.NotAfter.Sub(p.now()) > renewBefore &&
		cert.Subject.CommonName == want.Subject.CommonName &&
		slices.Equal(cert.Subject.Organization, want.Subject.Organization) &&
		slices.Equal(cert.DNSNames, want.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, want.IPAddresses, net.IP.Equal)
}

// create signs template with by, or with its own key if by is nil, and writes
// the pair to disk.
func (p *PKI) create(name string, template *x509.Certificate, by *Pair) (Pair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return Pair{}, err
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return Pair{}, err
	}
	template.NotBefore = p.now().Add(-time.Hour) // clocks of nodes may lag
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return Pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, err
	}
	pair := Pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, cert, key}
	// A start that ends between the two leaves a pair that does not match, which
	// the next start notices.
	certFile, keyFile := p.Files(name)
	if err := atomicfile.Write(keyFile, pair.KeyPEM, 0o600); err != nil {
		return Pair{}, err
	}
	return pair, atomicfile.Write(certFile, pair.CertPEM, 0o644)
}

func (p *PKI) load(name string) (Pair, error) {
	certFile, keyFile := p.Files(name)
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return Pair{}, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return Pair{}, err
	}
	block, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if block == nil || keyBlock == nil {
		return Pair{}, fmt.Errorf("%s.crt or %s.key holds no PEM block", name, name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Pair{}, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return Pair{}, err
	}
	return Pair{certPEM, keyPEM, cert, key}, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
