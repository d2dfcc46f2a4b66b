package certificates

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// permits says for each signer which requests it signs; the error is why it does not. A signer that is not here is
// somebody else's.
var permits = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        permitClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: permitKubeletClient,
	certificatesv1.KubeletServingSignerName:             permitKubeletServing,
	certificatesv1beta1.LegacyUnknownSignerName:         func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
}

func permitClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func permitKubeletClient(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(request.Subject.Organization, []string{user.NodesGroup}):
		return errOrganization
	case len(request.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(request.EmailAddresses) > 0:
		return errEmail
	case len(request.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(request.URIs) > 0:
		return errURI
	case !strings.HasPrefix(request.Subject.CommonName, nodePrefix):
		return errCommonName
	}
	return permitUsages(usages, certificatesv1.UsageClientAuth)
}

func permitKubeletServing(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch {
	case !slices.Equal(request.Subject.Organization, []string{user.NodesGroup}):
		return errOrganization
	case len(request.DNSNames) == 0 && len(request.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(request.EmailAddresses) > 0:
		return errEmail
	case len(request.URIs) > 0:
		return errURI
	}
	if err := permitUsages(usages, certificatesv1.UsageServerAuth); err != nil {
		return err
	}
	if !strings.HasPrefix(request.Subject.CommonName, nodePrefix) {
		return errCommonName
	}
	return nil
}

const nodePrefix = "system:node:"

var (
	errOrganization = errors.New("subject organization is not system:nodes")
	errCommonName   = errors.New("subject common name does not begin with system:node:")
	errEmail        = errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's words
	errURI          = errors.New("URI subjectAltNames are not allowed")
)

// permitUsages lets a kubelet's certificate be for one purpose alone. Only keys of RSA are also used to encipher others.
func permitUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	all := sorted(certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, purpose)
	got := slices.Compact(sorted(usages...))
	if slices.Equal(got, all) || slices.Equal(got, sorted(certificatesv1.UsageDigitalSignature, purpose)) {
		return nil
	}
	return fmt.Errorf("usages did not match %v", all)
}

func sorted(usages ...certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	return slices.Sorted(slices.Values(usages))
}
