package admission

import (
	"bytes"
	"context"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// certificateApproval demands the right to approve for a signer.
func certificateApproval(rights Rights) Plugin {
	return Plugin{Name: "CertificateApproval", Validate: func(ctx context.Context, a *Attributes) error {
		old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
		if !ok || a.Verb != update || a.Subresource != "approval" {
			return nil
		}
		if !mayForSigner(ctx, rights, a.User, "approve", old.Spec.SignerName) {
			return a.forbid("user not permitted to approve requests with signerName %q", old.Spec.SignerName)
		}
		return nil
	}}
}

// certificateSigning demands the right to sign for a signer.
func certificateSigning(rights Rights) Plugin {
	return Plugin{Name: "CertificateSigning", Validate: func(ctx context.Context, a *Attributes) error {
		old, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
		if !ok || a.Verb != update || a.Subresource != "status" {
			return nil
		}
		csr := a.New.(*certificatesv1.CertificateSigningRequest)
		if bytes.Equal(old.Status.Certificate, csr.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions) {
			return nil
		}
		if !mayForSigner(ctx, rights, a.User, "sign", old.Spec.SignerName) {
			return a.forbid("user not permitted to sign requests with signerName %q", old.Spec.SignerName)
		}
		return nil
	}}
}

// mayForSigner asks for the right over one signer, then over all of its domain.
func mayForSigner(ctx context.Context, rights Rights, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, _ := rights.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, APIGroup: certificatesv1.GroupName, APIVersion: "*",
			Resource: "signers", Name: name, ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// certificateSubjectRestriction refuses client certificates for the group that
// may do everything.
func certificateSubjectRestriction() Plugin {
	return Plugin{Name: "CertificateSubjectRestriction", Validate: func(_ context.Context, a *Attributes) error {
		csr, ok := a.New.(*certificatesv1.CertificateSigningRequest)
		if !ok || a.Verb != create || a.Subresource != "" || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
			return nil
		}
		request, err := parseRequest(csr)
		if err != nil {
			return a.forbid("failed to parse CSR: %w", err)
		}
		if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
			return a.forbid("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName)
		}
		return nil
	}}
}
