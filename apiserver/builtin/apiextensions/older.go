package apiextensions

import (
	"encoding/json"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
)

// upgrade reads v1beta1, in which kube-apiserver stores definitions to this day: what all versions have in common is
// there once.
func upgrade(version string, stored []byte, c *crd) (bool, error) {
	if version != "v1beta1" {
		return false, nil
	}
	var older apiextensionsv1beta1.CustomResourceDefinition
	if err := json.Unmarshal(stored, &older); err != nil {
		return false, err
	}
	apiextensionsv1beta1.SetObjectDefaults_CustomResourceDefinition(&older)
	var between internal.CustomResourceDefinition
	if err := apiextensionsv1beta1.Convert_v1beta1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&older, &between, nil); err != nil {
		return false, err
	}
	return true, apiextensionsv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(&between, c, nil)
}
