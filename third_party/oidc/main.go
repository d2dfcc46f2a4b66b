// Command oidc-provider is a provider of OpenID Connect as it is made with github.com/zitadel/oidc: it has the users of that
// library's example and a client, in memory, and other keys each time. It stands behind what speaks TLS, and says where it listens.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

func main() {
	issuer := flag.String("issuer", "", "where clients find it")
	redirect := flag.String("redirect", "", "where the client web has users sent")
	flag.Parse()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	storage.RegisterClients(storage.WebClient("web", "secret", *redirect))
	server := exampleop.SetupServer(*issuer, storage.NewStorage(storage.NewUserStore(*issuer)), nil, false)
	fmt.Println(l.Addr())
	log.Fatal(http.Serve(l, server))
}
