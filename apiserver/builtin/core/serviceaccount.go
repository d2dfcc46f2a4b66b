package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// serviceAccounts takes the token subresource from the package that signs
// tokens.
func serviceAccounts(token ...resource.Subresource[corev1.ServiceAccount]) *resource.Resource {
	return resource.Define[corev1.ServiceAccountList](resource.Definition[corev1.ServiceAccount]{
		Version: "v1", Kind: "ServiceAccount", Plural: "serviceaccounts", ShortNames: []string{"sa"},
		AnswersDeleted: true,
		Prepare:        prepareServiceAccount,
		Warn:           warnServiceAccount,
		Columns: []resource.Column[*corev1.ServiceAccount]{
			resource.NameColumn[*corev1.ServiceAccount](),
			resource.AgeColumn[*corev1.ServiceAccount](),
		},
		Subresources: token,
	})
}

// prepareServiceAccount keeps only the names of secrets; nothing else of the
// reference means anything.
func prepareServiceAccount(a, _ *corev1.ServiceAccount) {
	for i, s := range a.Secrets {
		a.Secrets[i] = corev1.ObjectReference{Name: s.Name}
	}
}

const mountableSecrets = "kubernetes.io/enforce-mountable-secrets"

func warnServiceAccount(a, old *corev1.ServiceAccount) []string {
	if old != nil {
		if _, before := old.Annotations[mountableSecrets]; before {
			return nil
		}
	}
	if _, now := a.Annotations[mountableSecrets]; !now {
		return nil
	}
	return []string{"metadata.annotations[" + mountableSecrets + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}
