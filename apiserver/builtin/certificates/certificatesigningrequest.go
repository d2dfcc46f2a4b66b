// Package certificates holds the kinds of certificates.k8s.io.
package certificates

import (
	"bytes"
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

type signing = certificatesv1.CertificateSigningRequest

// Resources are the rows of the group in the order of discovery.
func Resources() []*resource.Resource { return []*resource.Resource{signingRequests()} }

func signingRequests() *resource.Resource {
	// The descriptions of the columns are those of the beta API.
	spec, status := certificatesv1beta1.CertificateSigningRequestSpec{}, certificatesv1beta1.CertificateSigningRequestStatus{}
	return resource.Define[certificatesv1.CertificateSigningRequestList](resource.Definition[signing]{
		Group: "certificates.k8s.io", Version: "v1", Kind: "CertificateSigningRequest", Plural: "certificatesigningrequests", ShortNames: []string{"csr"},
		ClusterScoped: true,
		// Only here is known who asks, and nobody may ask for somebody else.
		Reserve:  nameRequester,
		Prepare:  prepareRequest,
		Reset:    []string{"spec", "status"},
		Validate: validateRequest,
		Name:     func(string, bool) []string { return nil },
		Fields:   map[string]func(*signing) string{"spec.signerName": func(r *signing) string { return r.Spec.SignerName }},
		Columns: []resource.Column[*signing]{
			resource.NameColumn[*signing](),
			resource.AgeColumn[*signing](),
			table.Text("SignerName", table.Doc(spec, "signerName"), func(r *signing) string { return table.OrNone(r.Spec.SignerName) }),
			table.Text("Requestor", table.Doc(spec, "request"), func(r *signing) string { return r.Spec.Username }),
			table.Text("RequestedDuration", table.Doc(spec, "expirationSeconds"), durationColumn),
			table.Text("Condition", table.Doc(status, "conditions"), conditionColumn),
		},
		Subresources: []resource.Subresource[signing]{
			{Name: "approval", View: true, Prepare: prepareApproval, Reset: []string{"spec", "status.certificate"}, Validate: validateApproval},
			{Name: "status", View: true, Prepare: prepareStatus, Reset: []string{"spec", "status.conditions"}, Validate: validateStatus},
		},
	})
}

func nameRequester(ctx context.Context, r, old *signing, _ bool) (func(bool), error) {
	done := func(bool) {}
	u := request.User(ctx)
	if r == nil || old != nil {
		return done, nil
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = "", "", nil, nil
	if u == nil {
		return done, nil
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
	for name, values := range u.GetExtra() {
		if r.Spec.Extra == nil {
			r.Spec.Extra = make(map[string]certificatesv1.ExtraValue)
		}
		r.Spec.Extra[name] = values
	}
	return done, nil
}

func prepareRequest(r, old *signing) {
	r.Status = certificatesv1.CertificateSigningRequestStatus{}
	if old != nil {
		r.Spec, r.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
	}
}

// prepareStatus keeps approvals as they were; the rest of the status is the
// signer's.
func prepareStatus(r, old *signing) {
	r.Spec = *old.Spec.DeepCopy()
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		is, was := conditions(r, t), conditions(old, t)
		for i := 0; len(is) == len(was) && i < len(is); i++ {
			*is[i] = *was[i]
		}
	}
	stamp(r, old)
}

func prepareApproval(r, old *signing) {
	stamp(r, old)
	now := r.Status.Conditions
	r.Spec, r.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
	r.Status.Conditions = now
}

// conditions are those of a type, to be changed in place.
func conditions(r *signing, t certificatesv1.RequestConditionType) []*certificatesv1.CertificateSigningRequestCondition {
	var found []*certificatesv1.CertificateSigningRequestCondition
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			found = append(found, &r.Status.Conditions[i])
		}
	}
	return found
}

// stamp fills the times a client left out.
func stamp(r, old *signing) {
	now := metav1.Now()
	for i := range r.Status.Conditions {
		c := &r.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, was := range conditions(old, c.Type) {
			if was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
				break
			}
		}
	}
}

func validateRequest(r, old *signing) field.ErrorList {
	return append(validateAll(r, old), validateChange(r, old, false, false)...)
}

func validateStatus(r, old *signing) field.ErrorList {
	return append(validateAll(r, old), validateChange(r, old, false, true)...)
}

func validateApproval(r, old *signing) field.ErrorList {
	return append(validateAll(r, old), validateChange(r, old, true, false)...)
}

// validateChange keeps approvals and certificates to those who may set them.
func validateChange(r, old *signing, mayApprove, maySign bool) field.ErrorList {
	if old == nil {
		return nil
	}
	at := field.NewPath("status")
	var errs field.ErrorList
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		is, was := conditions(r, t), conditions(old, t)
		switch {
		case len(is) < len(was):
			errs = append(errs, field.Forbidden(at.Child("conditions"), fmt.Sprintf("updates may not remove a condition of type %q", t)))
		case mayApprove || t == certificatesv1.CertificateFailed:
		case len(is) > len(was):
			errs = append(errs, field.Forbidden(at.Child("conditions"), fmt.Sprintf("updates may not add a condition of type %q", t)))
		case !equality.Semantic.DeepEqual(is, was):
			errs = append(errs, field.Forbidden(at.Child("conditions"), fmt.Sprintf("updates may not modify a condition of type %q\n%v", t, diff.Diff(was, is))))
		}
	}
	switch {
	case bytes.Equal(r.Status.Certificate, old.Status.Certificate):
	case !maySign:
		errs = append(errs, field.Forbidden(at.Child("certificate"), "updates may not set certificate content"))
	case len(old.Status.Certificate) > 0:
		errs = append(errs, field.Forbidden(at.Child("certificate"), "updates may not modify existing certificate content"))
	}
	return errs
}

func durationColumn(r *signing) string {
	if r.Spec.ExpirationSeconds == nil {
		return "<none>"
	}
	return duration.HumanDuration(time.Duration(*r.Spec.ExpirationSeconds) * time.Second)
}

func conditionColumn(r *signing) string {
	has := func(t certificatesv1.RequestConditionType) bool { return len(conditions(r, t)) > 0 }
	text := "Pending"
	switch {
	case has(certificatesv1.CertificateDenied):
		text = "Denied"
	case has(certificatesv1.CertificateApproved):
		text = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		text += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}
