package cluster

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// Certificate is one of a cluster.
type Certificate struct {
	Name      string // its file below the folder of certificates, without .crt
	Subject   string
	Authority bool
	Ends      time.Time
}

// pkiFolder is where the certificates of a cluster are.
func pkiFolder(c Config) string { return filepath.Join(c.DataDir, "pki") }

// Certificates are those of a cluster, which may run or not, by name.
func Certificates(c Config) (all []Certificate, err error) {
	for _, folder := range []string{"", "front-proxy"} {
		files, err := filepath.Glob(filepath.Join(pkiFolder(c), folder, "*.crt"))
		if err != nil {
			return nil, err
		}
		p := &PKI{dir: filepath.Join(pkiFolder(c), folder)}
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".crt")
			pair, err := p.load(name)
			if err != nil {
				return nil, fmt.Errorf("certificate %s: %w", file, err)
			}
			all = append(all, Certificate{filepath.Join(folder, name), pair.cert.Subject.String(), pair.cert.IsCA, pair.cert.NotAfter})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there are no certificates in %s: no cluster has run here", pkiFolder(c))
	}
	return all, nil
}

// RenewCertificates makes certificates of a cluster anew, with new keys, whether it runs or not; without names all but those of its
// authorities. Who uses them reads them for each connection. The administrator's kubeconfig is written anew with its certificate;
// copies of it keep the old one, which goes on being good until it ends.
func RenewCertificates(c Config, names ...string) (renewed []string, err error) {
	all, err := Certificates(c)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(have Certificate) bool { return have.Name == n && !have.Authority }) {
			return nil, fmt.Errorf("there is no certificate %q that can be renewed", n)
		}
	}
	for _, have := range all {
		if have.Authority || len(names) > 0 && !slices.Contains(names, have.Name) {
			continue
		}
		if err := renewFile(c, have.Name); err != nil {
			return renewed, fmt.Errorf("renew %s: %w", have.Name, err)
		}
		renewed = append(renewed, have.Name)
	}
	return renewed, nil
}

func renewFile(c Config, name string) error {
	file := filepath.Join(pkiFolder(c), name)
	p := &PKI{dir: filepath.Dir(file), now: time.Now}
	var err error
	if p.ca, err = p.load("ca"); err != nil {
		return err
	}
	old, err := p.load(filepath.Base(file))
	if err != nil {
		return err
	}
	pair, err := p.create(filepath.Base(file), &x509.Certificate{
		Subject: old.cert.Subject, NotAfter: p.now().Add(certLifetime), KeyUsage: old.cert.KeyUsage, ExtKeyUsage: old.cert.ExtKeyUsage,
		DNSNames: old.cert.DNSNames, IPAddresses: old.cert.IPAddresses,
	}, &p.ca)
	if err != nil || name != adminUser.file {
		return err
	}
	return renewKubeconfig(c.adminKubeconfig(), pair)
}

// renewKubeconfig replaces the certificate in a kubeconfig, if there is one.
func renewKubeconfig(file string, pair Pair) error {
	config, err := clientcmd.LoadFromFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the next start writes it
	}
	if err != nil {
		return err
	}
	for _, owner := range config.AuthInfos {
		owner.ClientCertificateData, owner.ClientKeyData = pair.CertPEM, pair.KeyPEM
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, data, 0o600)
}
