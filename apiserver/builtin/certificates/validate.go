package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

// legacySigner was that of requests of the beta API, which had none.
const legacySigner = "kubernetes.io/legacy-unknown"

var usages = sets.New(
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
	certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
	certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
)

func validateAll(r, old *signing) field.ErrorList {
	const shortest = 600
	at := field.NewPath("spec")
	var errs field.ErrorList
	if err := parse(r.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(at.Child("request"), r.Spec.Request, err.Error()))
	}
	if len(r.Spec.Usages) == 0 {
		errs = append(errs, field.Required(at.Child("usages"), ""))
	}
	for i, u := range r.Spec.Usages {
		path := at.Child("usages").Index(i)
		if !usages.Has(u) {
			errs = append(errs, field.NotSupported(path, u, slices.Sorted(maps.Keys(usages))))
		}
		if slices.Contains(r.Spec.Usages[:i], u) {
			errs = append(errs, field.Duplicate(path, u))
		}
	}
	errs = append(errs, validateSigner(r.Spec.SignerName, at.Child("signerName"))...)
	if s := r.Spec.ExpirationSeconds; s != nil && *s < shortest {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, validateConditions(r.Status.Conditions, field.NewPath("status", "conditions"))...)
	unchanged := old != nil && bytes.Equal(r.Status.Certificate, old.Status.Certificate)
	if err := checkCertificate(r.Status.Certificate); err != nil && !unchanged {
		errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
	}
	return errs
}

// parse requires a signed PKCS#10 request in PEM.
func parse(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return r.CheckSignature()
}

func checkCertificate(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	blocks := 0
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
		blocks++
		text = rest
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

// validateSigner wants domain/name, with names of the parts as in paths.
func validateSigner(name string, at *field.Path) field.ErrorList {
	switch {
	case name == "":
		return field.ErrorList{field.Required(at, "")}
	case name == legacySigner:
		return field.ErrorList{field.Invalid(at, name, "the legacy signerName is not allowed via this API version")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	// The path may be the name of an object and its namespace.
	const longestPath = validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 1
	var errs field.ErrorList
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(at, "", validation.DNS1123SubdomainMaxLength))
	}
	errs = append(errs, validateLabels(domain, at, validation.IsDNS1123Label)...)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, validateLabels(path, at, validation.IsDNS1123Subdomain)...)
	if len(path) > longestPath {
		errs = append(errs, field.TooLong(at, "", longestPath))
	}
	return errs
}

// validateLabels reports what is wrong with the first bad label.
func validateLabels(text string, at *field.Path, check func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for label := range strings.SplitSeq(text, ".") {
		for _, msg := range check(label) {
			errs = append(errs, field.Invalid(at, text, fmt.Sprintf("validating label %q: %s", label, msg)))
		}
		if len(errs) > 0 {
			break
		}
	}
	return errs
}

func validateConditions(list []certificatesv1.CertificateSigningRequestCondition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[certificatesv1.RequestConditionType]bool)
	for i, c := range list {
		path := at.Index(i)
		if c.Type == "" {
			errs = append(errs, field.Required(path.Child("type"), ""))
		}
		values := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		final := c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
		if final {
			values = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, check.OneOf(c.Status, path.Child("status"), values...)...)
		if c.Type == certificatesv1.CertificateApproved && seen[certificatesv1.CertificateDenied] || c.Type == certificatesv1.CertificateDenied && seen[certificatesv1.CertificateApproved] {
			errs = append(errs, field.Invalid(at, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[c.Type] {
			errs = append(errs, field.Duplicate(path.Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	return errs
}
