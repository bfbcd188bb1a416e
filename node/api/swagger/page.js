"use strict";
// Addresses are relative, so that the page also works behind a proxy that adds a path.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  // No validator badge: it would send the document to another host.
  validatorUrl: null,
});
